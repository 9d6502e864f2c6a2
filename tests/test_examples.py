"""The examples run as their users run them, and stay short."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import onebit
from onebit.evaluation.modes import reestimate_batch_norm_
from onebit.recipe.reading import build_recipe, read_settings, recipe_path
from onebit.runs.model import build_model
from onebit.runs.plain_state import save_plain

EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_LINES = 40


def run_example(name: str, *arguments: object) -> str:
    """What an example prints, in a process of its own."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
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


# ---------------------------------------------------------------------------------------------------- your own models
OWN_MODELS = EXAMPLES / "own_models"


class Claim(NamedTuple):
    """What an example of a model of one's own promises."""

    least: int  # correct samples; a net that learned nothing, or is packed wrongly, is far below
    count: int  # test samples
    certified: bool  # packed whole and certified; if not, layer by layer


CLAIMS = {
    "features.py": Claim(155, 171, True),
    "signals.py": Claim(550, 600, True),
    "cnn_loader.py": Claim(750, 1000, True),
    "residual.py": Claim(300, 497, True),
    "two_outputs.py": Claim(440, 497, True),
    "vit.py": Claim(350, 497, False),
    "lstm.py": Claim(750, 1000, False),
}


def test_every_own_model_has_a_claim() -> None:
    assert {path.name for path in OWN_MODELS.glob("*.py")} == set(CLAIMS)


def counted(printed: str) -> tuple[int, int]:
    """The correct test samples and all, as an example prints them."""
    found = re.search(
        r"^binary weights: (\d+) of (\d+) test |^\d+ of (?P<all>\d+) equal .*?; (?P<right>\d+) correct",
        printed,
        re.MULTILINE,
    )
    assert found, printed
    return int(found[1] or found["right"]), int(found[2] or found["all"])


@pytest.mark.parametrize("name", [name for name in CLAIMS if name != "two_outputs.py"])  # that has a loop of its own
def test_an_own_model_that_learned_nothing_is_far_below(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onebit.fit", lambda model, *_, **__: model.eval())
    runpy.run_path(str(OWN_MODELS / name), run_name="__main__")
    assert counted(capsys.readouterr().out)[0] < 0.85 * CLAIMS[name].least


@pytest.mark.parametrize("name", CLAIMS)
def test_an_own_model_trains_packs_and_proves_that_it_is_equal(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    claim = CLAIMS[name]
    made = runpy.run_path(str(OWN_MODELS / name), run_name="__main__")
    printed = capsys.readouterr().out
    correct, count = counted(printed)
    assert correct >= claim.least
    assert count == claim.count
    model, (inputs, targets) = made["model"], fed_and_targets(name, made)
    assert not model.training
    with torch.no_grad():
        logits = model(inputs)
    if claim.certified:
        packed = made["packed"]
        statement = packed.statement
        assert statement in printed or name == "two_outputs.py"
        assert statement.startswith(f"certified on {claim.count:,} ")
        assert packed.certificate.label_mismatches == 0
        onebit.save(packed, tmp_path / "net.1bit")
        taken = made["raw"].images if name == "cnn_loader.py" else inputs.numpy()
        ours = onebit.run(tmp_path / "net.1bit", taken)
        if name == "two_outputs.py":
            assert set(ours) == set(logits) == {"digit", "ink"}
            np.testing.assert_allclose(ours["ink"], logits["ink"].numpy(), atol=1e-4)
            assert f"{claim.count} of {claim.count} equal" in printed
            ours, logits = ours["digit"], logits["digit"]
    else:
        assert re.search(
            rf"^packed layers: {claim.count} of {claim.count} equal, logits differ by at most", printed, re.M
        )
        assert any(type(module).__name__.startswith("Packed") for module in model.modules())
        ours = logits.numpy()
        logits = made["before"]
    np.testing.assert_allclose(ours, logits.numpy(), atol=1e-4 * float(logits.abs().max()))
    assert (ours.argmax(1) == logits.argmax(1).numpy()).all()
    assert int((ours.argmax(1) == targets.numpy()).sum()) >= claim.least


def fed_and_targets(name: str, made: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The test samples as the model of an example is fed, and their labels."""
    if name == "features.py":
        inputs, targets = made["test_x"], made["test_y"]
    elif name == "cnn_loader.py":
        inputs, targets = (torch.from_numpy(made["raw"].images) / 255 - 0.1307) / 0.3081, made["raw"].labels
    elif name == "two_outputs.py":
        inputs, targets = made["images"][1300:], made["targets"]["digit"]
    else:
        inputs, targets = made["test"]
    return torch.as_tensor(inputs), torch.as_tensor(targets)
