"""Runs of `test_ranks.py` in each of two processes, and in one process to compare."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from onebit.data import VOID, Dataset
from onebit.errors import DataError, OnebitError
from onebit.evaluation.losses import cross_entropy
from onebit.layers import binarize_
from onebit.optim import clip_latents_, latent_groups
from onebit.train.history import History
from onebit.train.loop import fit
from onebit.train.ranks import ALONE, Ranks, join, launched_ranks, leave
from onebit.train.wrapping import SyncedNorms
from support.toy_training import CASES, Case, Stop, build, loss_that_breaks, stop_after_epoch, toy_data

DATA = toy_data(130, 41)  # four batches of 31 and one of 6: uneven shares
EVEN = toy_data(128, 40)
LAST_27 = toy_data(151, 41)  # four batches of 31 and one of 27
BATCH, EPOCHS = 31, 2


def convolutional() -> nn.Module:
    """Binary convolutions of real activations: a last bit flips no sign."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        # no bias before BatchNorm: its gradient is rounding alone, which Adam would make steps of
        nn.Flatten(), nn.Linear(32, 4, bias=False), nn.BatchNorm1d(4, affine=False),
    )  # fmt: skip
    return binarize_(nn.Sequential(Pixels(), net), weight_quantizer="sign").model


def without_norms() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))
    return binarize_(nn.Sequential(Pixels(), net), weight_quantizer="sign").model


class Pixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 128 - 1


def train(model: nn.Module, ranks: Ranks, data: Any = DATA, lr: float = 0.01, **options: Any) -> History:
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(model, lr=lr)))
    settings: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "precision": "fp32", "sync_norm": True}
    return fit(model, data, optimizer, ranks=ranks, **(settings | options))


def mlp(ranks: Ranks, data: Dataset = DATA, **options: Any) -> History:
    settings = {"batch_size": BATCH, "epochs": EPOCHS}
    return build(Case(schedule=None, lr=0.01)).fit(data, ranks=ranks, **(settings | options))


def masks(ranks: Ranks) -> History:
    """Masks of bright pixels; every third mask is nearly all void."""
    y = torch.randint(2, (130, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    x = 50 + 150 * y[:, None]
    y[::3, 1:] = VOID
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 1, bias=False), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    binary = binarize_(nn.Sequential(Pixels(), net), weight_quantizer="sign").model
    # a rate at which rounding errors stay rounding errors
    return train(binary, ranks, (x, y), lr=1e-3, validation=(x, y), sync_norm=False)


CURVES: dict[str, Any] = {
    "mlp": lambda ranks: mlp(ranks, sync_norm=True),
    "convolutions": lambda ranks: train(convolutional(), ranks),
    "average": lambda ranks: train(convolutional(), ranks, memory_format="contiguous", ema=0.5),
    "masks": masks,
    "accumulate": lambda ranks: train(without_norms(), ranks, accumulate=3, clip_grad_norm=0.3),
}
"""Runs that give the same curve in any number of processes."""


def shares(ranks: Ranks, parts: int) -> History:
    """Each process normalizes its own share, as one process does with so many parts of a batch."""
    return mlp(ranks, EVEN, batch_size=32, accumulate=parts)


def loader_training(ranks: Ranks) -> dict[str, list[float]]:
    """The buffers of BatchNorm after some steps on a loader with the samples of each process."""
    x = 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(1)) + 5
    samples = TensorDataset(x, (x[:, 0] > 5).long())
    loader = DataLoader(samples, batch_size=16, sampler=DistributedSampler(samples, ranks.world, ranks.rank))
    torch.manual_seed(0)
    net = binarize_(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), weight_quantizer="sign").model
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(net, lr=0.01)))
    fit(net, loader, optimizer, epochs=2, ranks=ranks)
    return {name: buffer.reshape(-1).tolist() for name, buffer in net.named_buffers()}


def breaking(ranks: Ranks, folder: Path) -> History:
    """The loss of the last rank is NaN in its seventh step."""
    loss = loss_that_breaks(7, math.nan) if ranks.rank == ranks.world - 1 else cross_entropy
    return mlp(ranks, loss=loss, folder=folder)


RESUMED = {name: CASES[name] for name in ("stochastic dropout", "own generator")}


def interrupted(case: Case, ranks: Ranks, folder: Path) -> None:
    """A run that was stopped after its first epoch and resumed, and one that was not."""
    build(case).fit(DATA, folder / "whole", epochs=EPOCHS, ranks=ranks)
    with contextlib.suppress(Stop):
        build(case).fit(DATA, folder / "parts", epochs=EPOCHS, ranks=ranks, on_epoch=stop_after_epoch(1))
    torch.manual_seed(99)  # a new process has another random state
    build(case).fit(DATA, folder / "parts", epochs=EPOCHS, ranks=ranks, resume=True)


NORMS = {
    "vectors": (nn.BatchNorm1d(5), (7, 5)),
    "images": (nn.BatchNorm2d(5), (7, 5, 3, 4)),
    "plain mean": (nn.BatchNorm2d(5, momentum=None), (7, 5, 3, 4)),
    "no affine": (nn.BatchNorm1d(5, affine=False), (7, 5, 6)),
    "no statistics": (nn.BatchNorm3d(5, track_running_stats=False), (7, 5, 2, 2, 2)),
}


def norm_case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """(layer, inputs far from zero, gradients of the outputs)."""
    norm, shape = NORMS[name]
    generator = torch.Generator().manual_seed(1)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, generator=generator)
    return norm, 3 * torch.randn(shape, generator=generator) + 50, torch.randn(shape, generator=generator)


def normalize(name: str, ranks: Ranks) -> dict[str, Tensor]:
    """Two steps of a synchronized layer on shares of 3 and 4 images."""
    norm, x, gradient = norm_case(name)
    part, forward = ranks.part(len(x)), SyncedNorms(nn.Sequential(norm))
    for _ in range(2):
        norm.zero_grad()
        own = x[part].clone().requires_grad_()
        y = forward(own)
        y.backward(gradient[part])
    assert own.grad is not None
    found = {f"grad.{key}": ranks.sum_(value.grad) for key, value in norm.named_parameters()}  # type: ignore[arg-type]
    found |= {f"buffer.{key}": value for key, value in norm.named_buffers()}
    y, dx = (torch.cat(ranks.gather(value)) for value in (y.detach(), own.grad))
    return found | {"y": y, "dx": dx, "eval": norm.eval()(x).detach()}


def talk(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The results and errors of the methods of `Ranks`."""

    def note() -> int:
        with (folder / "order").open("a") as file:
            file.write(f"{ranks.rank} ")
        return ranks.rank

    def fail() -> int:
        raise DataError(f"rank {ranks.rank} has no data")

    def message(action: Any) -> str:
        try:
            return str(action())
        except OnebitError as error:
            return f"{type(error).__name__}: {error}"

    return {
        "turns": ranks.in_turns(note),
        "turns again": ranks.in_turns(note),
        "first": ranks.first(note),
        "sum": ranks.sum_(torch.tensor([1, ranks.rank])).tolist(),
        "gather": ranks.gather(("a", ranks.rank)),
        "failed everywhere": message(lambda: ranks.in_turns(fail)),
        "failed on 1": message(lambda: ranks.in_turns(fail if ranks.rank == 1 else note)),
        "first failed": message(lambda: ranks.first(fail)),
        "one of all": sum(ranks.gather(ranks.is_first_to_report())),
        "batch": message(lambda: mlp(ranks, batch_size=3)),
        "elsewhere": message(lambda: mlp(ranks, folder=own_disk(ranks, folder), resume=True)),
    }


def own_disk(ranks: Ranks, folder: Path) -> Path:
    """A run folder per process; only the second process finds a checkpoint in it."""
    own = folder / f"disk-{ranks.rank}"
    own.mkdir()
    if not ranks.writes:
        (own / "last.ckpt").write_bytes(b"")
    return own


def all_in_ranks(folder: str) -> None:
    """All runs, in one launch."""
    torch.set_num_threads(1)
    ranks, root = join(launched_ranks()), Path(folder)
    results: dict[str, Any] = talk(ranks, root)
    for name, curve in CURVES.items():
        results[name] = rows_of(curve(ranks))
    # shares of 13 and 14 images at the end: alone they would be cut into 6 and 7 parts, which would wait for each other
    results["parts"] = rows_of(mlp(ranks, LAST_27, sync_norm=True, accumulate=7))
    results["shares"] = [rows_of(shares(ranks, parts)) for parts in (1, 2)]
    try:
        breaking(ranks, root / "breaking")
    except OnebitError as error:
        results["breaking"] = str(error)
    toy = build(Case())
    fit(toy.model, DATA, toy.optimizer, epochs=1, ema=0.3, ranks=ranks, folder=root / "two")
    results["weights"] = {name: tensor.tolist() for name, tensor in toy.model.state_dict().items()}
    few_bits = build(Case(inputs="uint4"))
    fit(few_bits.model, DATA, few_bits.optimizer, epochs=1, ranks=ranks)
    results["ranges"] = {
        name: tensor.tolist() for name, tensor in few_bits.model.state_dict().items() if "limit" in name
    }
    results["loader"] = loader_training(ranks)
    results["seed"] = torch.initial_seed()
    for name, case in RESUMED.items():
        interrupted(case, ranks, root / name)
    for name in NORMS:
        found = normalize(name, ranks)
        if ranks.writes:
            save_file({key: value.contiguous() for key, value in found.items()}, root / f"{name}.norm")
    (root / f"results-{ranks.rank}").write_text(json.dumps(results))
    leave(ranks)


def rows_of(history: History) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) for row in history.rows]


def alone(name: str) -> list[dict[str, Any]]:
    """The rows of a curve in one process."""
    return rows_of(CURVES[name](ALONE))
