"""`fit` of a net on the GPU: every form of data, every option, and checkpoints that go on there and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import onebit
from onebit.data import Augmentation
from onebit.train.distillation import Teacher
from onebit.train.loop import fit
from support.toy_training import (
    BATCH_SIZE,
    CASES,
    DATA,
    Case,
    Stop,
    build,
    metrics_without_times,
    stop_after_epoch,
    whole_and_resumed,
)

# warnings that only a torch with CUDA has are shown, and fail nothing
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

OPTIONS: dict[str, dict[str, Any]] = {
    "accumulate": {"accumulate": 2},
    "clip": {"clip_grad_norm": 0.5, "clip_grad_value": 0.1},
    "average": {"ema": 0.7},
    "bf16": {"precision": "bf16"},
}


def small_net(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Hardtanh(), nn.Linear(32, 3))
    onebit.binarize_(net, weight_quantizer="ste_sign", input_quantizer="ste_sign")
    return net.to(device)


def batch(count: int = 96) -> tuple[Tensor, Tensor]:
    """Two classes of vectors that a net learns at once."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(2, (count,), generator=generator)
    return torch.randn(count, 6, generator=generator) + 3 * y[:, None], y


def learned(net: nn.Module, data: Any, **options: Any) -> bool:
    optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(net, lr=0.02)))
    history = fit(net, data, optimizer, epochs=4, **options)
    assert all(p.device == next(net.parameters()).device for p in net.state_dict().values())
    return history.rows[-1].train_loss < history.rows[0].train_loss


@pytest.mark.parametrize("place", ["gpu", "cpu"])
def test_arrays_of_either_device(place: str, gpu: torch.device) -> None:
    x, y = batch()
    data = (x.to(gpu), y.to(gpu)) if place == "gpu" else (x, y)
    assert learned(small_net(gpu), data, validation=data, batch_size=32)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader(workers: int, gpu: torch.device) -> None:
    loader = DataLoader(
        TensorDataset(*batch()), batch_size=32, shuffle=True, num_workers=workers, pin_memory=gpu.type == "cuda"
    )
    assert learned(small_net(gpu), loader)


@pytest.mark.filterwarnings("ignore")  # torch's compiler causes some itself
def test_a_compiled_model(cuda: torch.device) -> None:
    assert learned(small_net(cuda), batch(), batch_size=32, compile=True)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options: dict[str, Any], gpu: torch.device) -> None:
    assert learned(small_net(gpu), batch(), batch_size=32, **options)


@pytest.mark.parametrize("packed", [False, True])
def test_a_teacher(packed: bool, gpu: torch.device) -> None:
    teacher = copy.deepcopy(build(Case(loss="cross_entropy")).model)
    if packed:
        teacher = onebit.PackedModule(onebit.pack(teacher.eval()))
    history = build(Case(loss="cross_entropy"), device=gpu).fit(DATA, teacher=Teacher(teacher, 0.5))
    assert history.rows[-1].train_loss < history.rows[0].train_loss


def test_a_net_of_convolutions_trains_to_the_same_bits(gpu: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, 3, 16, 16, generator=generator), torch.arange(64) % 4

    def trained() -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Hardtanh(), nn.MaxPool2d(2))
        net.extend([nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(800, 4)])
        onebit.binarize_(net, weight_quantizer="ste_sign", input_quantizer="ste_sign")
        learned(net.to(gpu), data, batch_size=32)
        return net.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def images_on_the_device(case: Case) -> Case:
    return Case(**{**vars(case), "augmentation": Augmentation(crop_padding=1, flip=True)})


def weights(folder: Path) -> bytes:
    return (folder / "final.safetensors").read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(name: str, tmp_path: Path, gpu: torch.device) -> None:
    case = images_on_the_device(CASES[name])
    if case.generator:
        pytest.skip("a generator of the CPU draws for the CPU only")

    def train(folder: Path, **options: Any) -> Any:
        build(case, device=gpu).fit(DATA, folder, **options)
        return metrics_without_times(folder), weights(folder)

    whole, resumed = whole_and_resumed(train, tmp_path, epoch=2)
    assert resumed == whole


@pytest.mark.parametrize("name", ["sign", "stochastic", "bop", "bayesbinn", "average", "few bits"])
def test_a_checkpoint_goes_from_one_device_to_the_other_and_back(name: str, tmp_path: Path, gpu: torch.device) -> None:
    cpu = torch.device("cpu")
    for epoch, device in ((1, cpu), (2, gpu)):
        with pytest.raises(Stop):
            build(CASES[name], device=device).fit(DATA, tmp_path, resume=epoch > 1, on_epoch=stop_after_epoch(epoch))
    history = build(CASES[name], device=cpu).fit(DATA, tmp_path, resume=True)
    assert [row.epoch for row in history.rows] == [1, 2, 3]
    assert history.rows[-1].train_loss < history.rows[0].train_loss


def test_the_net_of_a_small_batch_size(gpu: torch.device) -> None:
    """The last batch of 129 images is one image, which goes to the batch before."""
    history = build(CASES["sign"], device=gpu).fit(DATA, batch_size=BATCH_SIZE)
    assert len(history) == 3
