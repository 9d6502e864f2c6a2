"""The examples run as their users run them, and stay short."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from onebit.evaluation.modes import reestimate_batch_norm_
from onebit.export.torch_state import save_plain
from onebit.recipe.reading import build_recipe, read_settings, recipe_path
from onebit.runs.model import build_model

EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_LINES = 40


def run_example(name: str, *arguments: object) -> str:
    """What an example prints, in a process of its own."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_minimal_binaryconnect() -> None:
    found = re.fullmatch(
        r"(\d+) of 2000 test digits correct with binary weights\n", run_example("minimal_binaryconnect.py")
    )
    assert found
    assert 1700 < int(found[1]) < 2000


def plain_net(example: str, *arguments: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """The net that an example makes where onebit cannot be imported."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "onebit", None)
        patched.setattr(sys, "argv", [example, *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / example))["net"]


def exported(recipe: str, path: Path) -> nn.Module:
    """A net of random weights and of the statistics of noise, exported to `path`."""
    torch.manual_seed(0)
    shape = (1, 28, 28) if recipe.startswith("mnist") else (3, 32, 32)
    statistics = [120.0, 130.0, 140.0][: shape[0]], [60.0, 70.0, 80.0][: shape[0]]
    settings = build_recipe(read_settings(recipe_path(recipe))).model
    model = build_model(settings, input_shape=shape, classes=10, statistics=statistics)
    reestimate_batch_norm_(model, torch.randint(0, 256, (32, *shape), dtype=torch.uint8).numpy())
    for name, parameter in model.named_parameters():
        if "norm" in name or "bn" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    save_plain(model, path)
    return model.eval()


MLP, RESNET = "load_binarized.py", "load_binarized_resnet.py"


@pytest.mark.parametrize(
    ("recipe", "example", "words"),
    [
        *((f"mnist-{name}", MLP, []) for name in ("fast", "ste", "binaryconnect", "bayesbinn", "tutorial")),
        ("mnist-bnn", MLP, ["sign"]),
        ("cifar10-resnet20-binaryconnect", RESNET, []),
        ("cifar10-resnet20-binaryconnect-ends-real-short", RESNET, []),
    ],
)
def test_load_binarized(recipe: str, example: str, words: list[str], tmp_path: Path) -> None:
    """The plain layers of the examples answer like the net that was exported."""
    model = exported(recipe, tmp_path / "plain.pth")
    images = torch.randint(0, 256, (16, *model.input_shape), dtype=torch.uint8)  # type: ignore[misc]
    with torch.no_grad():
        found, expected = plain_net(example, tmp_path / "plain.pth", *words)(images.float()), model(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize(
    ("recipe", "example", "words", "got"),
    [
        ("cifar10-resnet20-binaryconnect", MLP, [], "conv1"),
        ("cifar10-resnet18-bnn", RESNET, [], "layer2.0.downsample.0"),
        ("cifar10-binaryconnect", RESNET, [], "norm1"),
        ("mnist-fast", RESNET, [], "linear1"),
        ("mnist-fast", MLP, ["relu"], "relu"),
        ("cifar10-resnet20-binaryconnect", RESNET, ["sign"], "sign"),
    ],
)
def test_what_an_example_does_not_load_is_refused_in_one_line(
    recipe: str, example: str, words: list[str], got: str, tmp_path: Path
) -> None:
    exported(recipe, tmp_path / "plain.pth")
    with pytest.raises(SystemExit) as refused:
        plain_net(example, tmp_path / "plain.pth", *words)
    assert re.fullmatch(rf"got '{re.escape(got)}', expected .*load_binarized\w*\.py takes .*", str(refused.value))
