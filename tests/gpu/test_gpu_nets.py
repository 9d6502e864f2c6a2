"""Nets that live on the GPU: evaluated, verified and packed as on the CPU; packed nets say that they run on the CPU."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onebit
from onebit.__main__ import main
from onebit.data import Split
from onebit.errors import UsageError
from onebit.models import create_model
from support.fold_nets import images_of, randomise
from support.toy_training import DATA, TOY

# warnings that only a torch with CUDA has are shown, and fail nothing
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

SHAPE = (3, 32, 32)


def nets() -> dict[str, Any]:
    small = {"input_shape": SHAPE, "classes": 10, "weight_quantizer": "ste_sign"}
    return {
        "resnet20": lambda: create_model("resnet20", width=0.5, input_quantizer="ste_sign", last_norm=True, **small),
        "real activations": lambda: create_model("resnet20", width=0.5, last_norm=True, **small),
        "few bits": lambda: create_model("vgg_small", width=1 / 16, input_quantizer="uint4", **small),
    }


def trained_like(name: str) -> tuple[torch.nn.Module, Split]:
    """A net with statistics of BatchNorm, and labeled images."""
    torch.manual_seed(0)
    images = images_of(24, SHAPE)
    return randomise(nets()[name](), images), Split(images, np.arange(24) % 10)


@pytest.mark.parametrize("name", nets())
def test_nets_are_evaluated_as_on_the_cpu(name: str, gpu: torch.device) -> None:
    model, split = trained_like(name)
    for mode in ("binary", "latent"):
        there = onebit.evaluate(copy.deepcopy(model), split, weights=mode, train=split)
        here = onebit.evaluate(copy.deepcopy(model).to(gpu), split, weights=mode, train=split)
        assert abs(here.correct - there.correct) <= 1
        assert here.loss == pytest.approx(there.loss, rel=0.02)


@pytest.mark.parametrize("name", nets())
def test_nets_are_packed_and_verified(name: str, gpu: torch.device) -> None:
    model, split = trained_like(name)
    expected, packed = onebit.pack(model), onebit.pack(copy.deepcopy(model).to(gpu))
    assert onebit.packed.dumps(packed) == onebit.packed.dumps(expected)
    agreement = onebit.verify(model.to(gpu), packed, split)
    assert agreement.label_mismatches <= 1
    assert onebit.certify(model, packed, split).certificate.count == len(split)
    assert next(model.parameters()).device == gpu


def test_summary_and_check_of_a_net_on_the_gpu(gpu: torch.device) -> None:
    model, split = trained_like("resnet20")
    assert "binary" in str(onebit.summary(model.to(gpu)))
    onebit.check(model, (split.images, split.labels))


def test_packed_nets_and_layers_name_the_cpu(gpu: torch.device) -> None:
    model, split = trained_like("real activations")
    images = torch.from_numpy(split.images)
    module, binary = onebit.PackedModule(onebit.pack(model)), copy.deepcopy(model)
    calls: list[Callable[[], Any]] = [
        lambda: module(images.to(gpu)),
        lambda: onebit.run(module.net, images.to(gpu)),
        lambda: module.to(gpu)(images),
        lambda: onebit.packed_layers_(binary.to(gpu)),
        lambda: model.to(gpu)(images.to(gpu)),
    ]
    onebit.packed_layers_(model)
    with torch.no_grad():
        expected = model(images)
        for call in calls:
            with pytest.raises((UsageError, TypeError), match=r"(?i)cpu"):
                call()
        torch.testing.assert_close(model.to("cpu")(images), expected)


def test_the_keras_like_door(gpu: torch.device) -> None:
    trainer = onebit.Trainer("mlp", options={"widths": (64, 16, 4)}, epochs=1, batch_size=32, device=str(gpu))
    trainer.fit(DATA)
    assert next(trainer.model.parameters()).device == gpu
    assert trainer.evaluate(DATA.test).count == len(DATA.test)
    assert len(trainer.predict(DATA.test.images)) == len(DATA.test)


def test_every_verb_on_a_run_of_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str], gpu: torch.device) -> None:
    run, net = tmp_path / "run", tmp_path / "net.1bit"
    flags = ["--epochs", "2", "--batch_size", "32", "--model.widths", "[64,16,4]", "--device", str(gpu)]
    assert main(["train", "--dataset", "toy", "--method", "bnn", *flags, "--out", str(run)]) == 0
    assert json.loads((run / "result.json").read_text())["device"] == str(gpu)
    for verb, more in {"verify": [], "pack": ["-o", str(net)], "evaluate": [], "inspect": []}.items():
        assert main([verb, str(run), *more]) == 0, verb
    assert main(["train", str(run / "recipe.yaml"), "--out", str(run), "--resume"]) == 0
    capsys.readouterr()


def test_two_ranks_on_one_gpu_are_refused_in_one_line(tmp_path: Path, cuda: torch.device) -> None:
    if torch.cuda.device_count() > 1:
        pytest.skip("this machine has several GPUs")
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(json.dumps({**TOY, "device": "cuda"}))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, "-m", "onebit", "train", str(recipe), "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode
    lines = [line for line in ended.stderr.splitlines() if line.startswith("onebit:")]
    assert len(lines) == 1
    assert "1" in lines[0]
    assert "GPU" in lines[0]
