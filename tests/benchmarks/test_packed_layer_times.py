"""`python -m benchmarks packed-layers` compares layers that hold bits with float32 ones."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import packed_layers
from benchmarks.__main__ import main
from onebit.errors import OnebitError
from onebit.runtime.torch_layers import PackedLinear

SMALL = ["--features", "64", "--rows", "2", "--width", "64", "--tokens", "5", "--rounds", "2", "--seconds", "0.001"]


def test_each_case_and_variant_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert main(["packed-layers", *SMALL, "--json"]) == 0
    torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
    assert [(row["case"].split()[0], row["variant"]) for row in result["rows"]] == [
        ("dense", "torch float32"),
        ("dense", "packed layers"),
        ("dense", "kernel alone"),
        ("ViT", "torch float32"),
        ("ViT", "packed layers"),
    ]
    assert result["rows"][0]["torch_speedup"] == 1
    assert 0 < result["rows"][1]["times_the_kernel"] < math.inf
    assert 1 / 32 < result["rows"][1]["weights_to_float32"] < 1 / 10
    text = packed_layers.describe(result)
    assert len(text.splitlines()) == 7


def test_the_block_of_torch_is_timed_as_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, training = packed_layers.Block.forward, []

    def noted(block: packed_layers.Block, x: torch.Tensor) -> torch.Tensor:
        training.append(block.training)
        return forward(block, x)

    monkeypatch.setattr(packed_layers.Block, "forward", noted)
    threads = torch.get_num_threads()
    packed_layers.measure(features=64, rows=[1], width=64, tokens=[2], rounds=1, seconds=0.001)
    torch.set_num_threads(threads)
    assert not any(training)  # attention in training mode takes none of the shortcuts of torch


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: 1.01 * forward(self, x))
    with pytest.raises(OnebitError, match="dense 64 × 64, batch 1: the packed layers do not give"):
        packed_layers.measure(features=64, rows=[1], width=64, tokens=[1], rounds=1, seconds=0.001)


def test_wrong_numbers_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["packed-layers", "--rows", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
