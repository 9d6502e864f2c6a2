"""Two processes train as one: the same curve, the same files, the same errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from onebit.errors import CheckpointError
from onebit.train.loop import fit
from onebit.train.ranks import ALONE, Ranks, launched_ranks, rank_device
from onebit.train.weights import read_torch_file
from support.rank_agents import Agents
from support.rank_trainings import CURVES, DATA, NORMS, RESUMED, alone, norm_case, rows_of, shares
from support.toy_training import Case, build, everything

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(agents: Agents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `rank_trainings.all_in_ranks` in two processes."""
    path = tmp_path_factory.mktemp("ranks")
    ended = agents.launch("support.rank_trainings:all_in_ranks", path).end()
    assert (ended.status, ended.talk) == (0, ""), ended.err
    return path


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    """The results of each rank."""
    return [json.loads((folder / f"results-{rank}").read_text()) for rank in (0, 1)]


# ------------------------------------------------------------------------------------------------------------- curves
NUMBERS = ("train_loss", "train_error", "validation_loss", "validation_error", "flip_ratio", "saturation", "lr")


@pytest.mark.parametrize("name", CURVES)
def test_two_processes_give_the_curve_of_one(results: Results, name: str) -> None:
    expected = alone(name)
    assert len(expected) == 2
    for rank in (0, 1):
        found = results[rank][name]
        assert [row["step"] for row in found] == [row["step"] for row in expected] == [5, 10]
        for ours, theirs in zip(found, expected, strict=True):
            for number in NUMBERS:
                assert ours[number] == pytest.approx(theirs[number], rel=1e-4, abs=1e-6), (number, ours["epoch"])
    assert expected[-1]["train_loss"] < 0.9 * expected[0]["train_loss"]


def test_without_sync_norm_each_process_normalizes_its_share(results: Results) -> None:
    """As one process does with the parts of an accumulated batch."""
    for parts, found in zip((1, 2), results[0]["shares"], strict=True):
        expected = rows_of(shares(ALONE, 2 * parts))
        for number in ("train_loss", "validation_loss"):  # so few steps that the statistics are re-estimated
            assert [row[number] for row in found] == pytest.approx([row[number] for row in expected], rel=1e-4)
    whole = rows_of(shares(ALONE, 1))
    assert abs(results[0]["shares"][0][0]["train_loss"] / whole[0]["train_loss"] - 1) > 1e-3


def test_uneven_shares_are_cut_into_as_many_parts(results: Results) -> None:
    losses = [row["train_loss"] for row in results[0]["parts"]]
    assert losses == [row["train_loss"] for row in results[1]["parts"]]
    assert losses[1] < 0.9 * losses[0]


def test_the_processes_hold_the_same_net_and_draw_differently(results: Results, folder: Path) -> None:
    assert results[0]["weights"] == results[1]["weights"]
    assert results[0]["seed"] == 0 != results[1]["seed"]
    assert results[0]["ranges"] == results[1]["ranges"]  # each process sees other images first
    assert min(results[0]["ranges"].values()) > 0
    assert results[0]["loader"] == results[1]["loader"]  # so few steps that the statistics are re-estimated


@pytest.mark.parametrize("name", NORMS)
def test_synchronized_statistics_are_those_of_the_whole_batch(folder: Path, name: str) -> None:
    norm, x, gradient = norm_case(name)
    norm = norm.double()
    for _ in range(2):
        norm.zero_grad()
        whole = x.double().requires_grad_()
        y = norm(whole)
        y.backward(gradient.double())
    expected = {f"grad.{key}": value.grad for key, value in norm.named_parameters()}
    expected |= {f"buffer.{key}": value for key, value in norm.named_buffers()}
    expected |= {"y": y.detach(), "dx": whole.grad, "eval": norm.eval()(x.double()).detach()}
    found = load_file(folder / f"{name}.norm")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key].double(), value.double(), atol=1e-4), key  # type: ignore[union-attr]


# -------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_processes_end_in_the_same_bits(folder: Path, name: str) -> None:
    assert everything(folder / name / "parts") == everything(folder / name / "whole")


def test_a_checkpoint_holds_the_random_stream_of_each_process(folder: Path) -> None:
    held = read_torch_file(folder / "own generator" / "whole" / "last.ckpt")
    first, second = (cpu for cpu, _ in held["rng"])
    assert not torch.equal(first, second)
    assert {len(states) for states in held["generators"].values()} == {2}


def test_another_number_of_processes_is_refused(folder: Path) -> None:
    toy = build(Case())
    with pytest.raises(CheckpointError, match="processes"):
        fit(toy.model, DATA, toy.optimizer, epochs=1, folder=folder / "two", resume=True)


def test_a_nan_loss_on_one_rank_stops_all_at_the_same_step(results: Results, folder: Path) -> None:
    kept = folder / "breaking" / "last.ckpt"
    assert results[0]["breaking"] == results[1]["breaking"]
    assert "epoch 2, step 7:" in results[0]["breaking"]
    assert len(read_torch_file(kept)["rows"]) == 1


# --------------------------------------------------------------------------------------------------------------- ranks
def test_ranks_share_values_and_errors(results: Results, folder: Path) -> None:
    for rank in (0, 1):
        found = results[rank]
        assert (found["turns"], found["turns again"]) == (rank, rank)
        assert found["first"] == 0
        assert found["sum"] == [2, 1]
        assert found["gather"] == [["a", 0], ["a", 1]]
        assert found["failed everywhere"] == found["first failed"] == "DataError: rank 0 has no data"
        assert found["failed on 1"] == "DataError: rank 1 has no data"
        assert found["one of all"] == 1
        assert found["batch"].startswith("UsageError: batch_size is 3")
        assert "checkpoint" in found["elsewhere"]
    assert (folder / "order").read_text().split() == ["0", "1", "0", "1", "0", "0"]


@pytest.mark.parametrize(("count", "world"), [(0, 2), (17, 1), (31, 3), (257, 8), (3, 8)])
def test_shares_make_up_the_batch(count: int, world: int) -> None:
    parts = [range(count)[Ranks(rank, world).part(count)] for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_single_process_does_not_use_torch_distributed() -> None:
    model = nn.Linear(2, 2)
    assert ALONE.wrap(model) is model
    assert ALONE.first(lambda: 3) == ALONE.in_turns(lambda: 3) == 3
    assert ALONE.gather(3) == [3]
    assert ALONE.is_first_to_report()
    assert float(ALONE.sum_(torch.ones(()))) == 1
    ALONE.same_([torch.ones(2)])
    ALONE.wait()
    assert not torch.distributed.is_initialized()


def test_the_environment_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_ranks() == ALONE
    monkeypatch.setenv("RANK", "5")  # alone it may come from anything else
    assert launched_ranks() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launched_ranks() == Ranks(5, 8, 1)
    assert not launched_ranks().writes


def test_each_process_uses_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    gpu = torch.device("cuda")
    assert rank_device(gpu, Ranks(3, 4, 1)) == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]
    assert rank_device(gpu, ALONE) == gpu
    assert rank_device(torch.device("cpu"), Ranks(3, 4, 3)) == torch.device("cpu")
    assert rank_device(torch.device("cuda:2"), Ranks(3, 4, 1)) == torch.device("cuda:2")
