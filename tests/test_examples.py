"""The examples run, and stay short."""

from __future__ import annotations

import os
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

import onebit.export
from support.covering import covering
from support.installed import cached
from support.packed_nets import sign_net
from support.recipe_nets import SMALL, packed_net

EXAMPLES = Path(__file__).parent.parent / "examples"
MAX_LINES = {"language_model.py": 62, "several_gpus.py": 115}  # 40 for the others


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES.get(path.name, 40)


def test_minimal_binaryconnect(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "minimal_binaryconnect.py"), run_name="__main__")
    found = re.fullmatch(r"(\d+) of 2000 test digits correct with binary weights\n", capsys.readouterr().out)
    assert found
    assert 1700 < int(found[1]) < 2000


def plain_net(*arguments: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """The net that an example makes where onebit cannot be imported."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "onebit", None)
        patched.setattr(sys, "argv", ["load_binarized.py", *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / "load_binarized.py"))["net"]


@pytest.mark.parametrize(
    ("recipe", "suffix"),
    [
        ("mnist-bnn", ".safetensors"),
        ("cifar10-resnet20-binaryconnect-ends-real", ".pth"),
        ("cifar10-resnet18-bnn", ".safetensors"),
        ("membrane-unet-ste", ".pth"),
    ],
)
def test_load_binarized(recipe: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An example loads any exported net, which answers like the model that was packed."""
    model, net = packed_net(SMALL[recipe], 4)
    path = tmp_path / f"net{suffix}"
    onebit.export.export_net(net, "torch", path)
    images = torch.randint(0, 256, (8, *net.input.shape), dtype=torch.uint8)
    with torch.no_grad():
        found, expected = plain_net(path)(images), model.eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.equal(found.argmax(1), expected.argmax(1))
    printed = capsys.readouterr().out.splitlines()
    weights = [node for node in net.nodes if node.binary_weights]
    assert sum(line.endswith(": 2 values") for line in printed) == len(weights)


def test_other_files_are_refused_by_the_example(tmp_path: Path) -> None:
    onebit.export.export_net(sign_net(), "torch", tmp_path / "net.pth")
    (tmp_path / "alone.pth").write_bytes((tmp_path / "net.pth").read_bytes())
    for arguments in ([], [tmp_path / "nowhere.pth"], [tmp_path], [tmp_path / "net.pth", "sign"]):
        with pytest.raises(SystemExit, match="file"):
            plain_net(*arguments)
    for name in ("damaged.pth", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"damaged" * 100)
        onebit.export.export_net(sign_net(), "torch", (good := tmp_path / f"good-{name}"))
        good.with_suffix(".py").rename((tmp_path / name).with_suffix(".py"))
        with pytest.raises(SystemExit, match=name):
            plain_net(tmp_path / name)
    with pytest.raises(SystemExit, match="alone"):
        plain_net(tmp_path / "alone.pth")


TRAINERS = ("lightning==2.6.6", "lightning-utilities", "torchmetrics", "skorch==1.4.0", "tabulate", "tqdm")


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "least", "count"), [("lightning_module", 1700, 2000), ("skorch_net", 420, 450)])
def test_other_libraries_train_a_binary_net(name: str, least: int, count: int, tmp_path: Path) -> None:
    """Without the packages that these require: torch is here, and would be installed again."""

    def install(folder: Path) -> list[list[str]]:
        return [[sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), *TRAINERS]]

    environment = {**os.environ, "PYTHONPATH": str(cached("trainers", install))}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.search(r"certified on ([\d,]+) .*: ([\d,]+) correct with packed weights, 0 labels differ", done.stdout)
    assert found, done.stdout
    tested, correct = (int(number.replace(",", "")) for number in found.groups())
    assert tested == count
    assert least < correct < count


# ---------------------------------------------------------------------------------------------------- your own models
OWN_MODELS = EXAMPLES / "own_models"


class Claim(NamedTuple):
    """What an example of a model of one's own promises."""

    least: int  # correct samples; a net that learned nothing, or is packed wrongly, is far below
    count: int  # test samples


CLAIMS = {
    "features.py": Claim(155, 171),
    "signals.py": Claim(550, 600),
    "cnn_loader.py": Claim(750, 1000),
    "residual.py": Claim(440, 497),
    "two_outputs.py": Claim(440, 497),
    "vit.py": Claim(350, 497),
    "lstm.py": Claim(750, 1000),
}


def test_every_own_model_has_a_claim() -> None:
    assert {path.name for path in OWN_MODELS.glob("*.py")} == set(CLAIMS)


def correct_of(printed: str) -> tuple[int, int]:
    """The correct test samples and all, as an example prints them."""
    pattern = r"^binary weights: (\d+) of (\d+) test |^(?P<all>\d+) samples of .*?: (?P<right>\d+) correct"
    found = re.search(pattern, printed, re.MULTILINE)
    assert found, printed
    return int(found[1] or found["right"]), int(found[2] or found["all"])


@pytest.mark.parametrize("name", [name for name in CLAIMS if name != "two_outputs.py"])  # that has a loop of its own
def test_an_own_model_that_learned_nothing_is_far_below(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """But it is packed and equal all the same."""
    monkeypatch.setattr("onebit.fit", lambda model, *_, **__: model.eval())
    made = runpy.run_path(str(OWN_MODELS / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert correct_of(printed)[0] < 0.85 * CLAIMS[name].least
    assert assert_packed_and_equal(name, made, printed, tmp_path) < 0.85 * CLAIMS[name].least


@pytest.mark.parametrize(
    "name", covering(CLAIMS, heavy={"vit.py", "residual.py", "lstm.py", "signals.py", "cnn_loader.py"})
)
def test_an_own_model_trains_packs_and_proves_that_it_is_equal(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The slow ones nightly; daily they are packed as above, without a training."""
    made = runpy.run_path(str(OWN_MODELS / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert correct_of(printed)[0] >= CLAIMS[name].least
    assert assert_packed_and_equal(name, made, printed, tmp_path) >= CLAIMS[name].least


def assert_packed_and_equal(name: str, made: dict[str, Any], printed: str, folder: Path) -> int:
    """What an example packed answers as its model; the correct test samples of what it packed."""
    claim = CLAIMS[name]
    assert correct_of(printed)[1] == claim.count
    model, (inputs, targets) = made["model"], fed_and_targets(name, made)
    assert not model.training
    with torch.no_grad():
        logits = model(inputs)
    packed = made["packed"]
    statement = packed.statement
    assert statement in printed or name == "two_outputs.py"
    assert statement.startswith(f"certified on {claim.count:,} ")
    assert packed.certificate.label_mismatches == 0
    onebit.save(packed, folder / "net.1bit")
    taken = made["raw"].images if name == "cnn_loader.py" else inputs.numpy()
    ours = onebit.run(folder / "net.1bit", taken)
    if name == "two_outputs.py":
        assert set(ours) == set(logits) == {"digit", "ink"}
        np.testing.assert_allclose(ours["ink"], logits["ink"].numpy(), atol=1e-4)
        assert "0 outputs differ by more than rounding" in printed
        ours, logits = ours["digit"], logits["digit"]
    np.testing.assert_allclose(ours, logits.numpy(), atol=1e-4 * float(logits.abs().max()))
    assert (ours.argmax(1) == logits.argmax(1).numpy()).all()
    return int((ours.argmax(1) == targets.numpy()).sum())


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
