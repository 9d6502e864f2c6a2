"""Models and quantizers of the user's own: `--model FILE.py:Class`, `--model.weight_quantizer FILE.py:Class`.

Code that only a file names never runs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import onebit as library
from onebit.__main__ import main
from onebit.layers import InputCoding
from onebit.packed import load
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import read_settings
from onebit.runs import own_model
from onebit.runs.opening import open_run
from onebit.train.printing import TrainingPrinter
from onebit.train.weights import read_state
from support.command_line import Onebit, Outcome

CODE = '''
from pathlib import Path

import torch
from torch import nn

import onebit
from onebit.quantizers import BinaryInput, Quantizer, sign

Path("was-here").touch()


class Soft(Quantizer):
    """sign(w), with the gradient of tanh."""

    def __init__(self, steepness: float = 2.0):
        super().__init__()
        self.steepness = steepness

    def forward(self, x):
        soft = torch.tanh(self.steepness * x)
        return sign(x.detach()) + (soft - soft.detach())

    def binary_input(self):
        return BinaryInput()


class Unstated(Soft):
    def binary_input(self):
        return None


class Halved(Soft):
    def forward(self, x):
        return super().forward(x) / 2


class Net(nn.Module):
    """A net that takes float images."""

    def __init__(self, hidden: int = 16, *, widths: tuple[int, ...] = (), mode: str = "max", bias=True, scale=1.0):
        super().__init__()
        self.given = (hidden, widths, mode, bias, scale)
        self.conv = nn.Conv2d(1, 4, 3, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(4 * 3 * 3, hidden)
        self.norm1 = nn.BatchNorm1d(hidden)
        self.out = nn.Linear(hidden, 4)
        self.norm2 = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.pool(self.norm(self.conv(x)))
        return self.norm2(self.out(self.norm1(self.fc(self.flat(x)))))


class Pixels(Net):
    """A net that takes uint8 images."""

    def forward(self, x):
        return super().forward(x.float() / 255)


def function(needed, width: int = 4):
    print("noise of its own")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.Linear(width, 4))


def binary():
    layers = onebit.BinaryLinear(64, 4, weight_quantizer="ste_sign"), nn.BatchNorm1d(4)
    return nn.Sequential(onebit.InputCoding(), nn.Flatten(), *layers)


def mlp(units: int):
    dense = nn.Linear(64, units), nn.BatchNorm1d(units), nn.Linear(units, 4), nn.BatchNorm1d(4)
    return nn.Sequential(onebit.InputCoding(), nn.Flatten(), *dense)


class Few(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 3))


class Broken(nn.Module):
    def __init__(self, late: bool = False):
        super().__init__()
        self.fc = nn.Linear(64, 4)
        if not late:
            raise RuntimeError("no such part")

    def forward(self, x):
        return [][3]


number = 3
'''
NET = ("--model", "mine.py:Net")
WEIGHTS, INPUTS = ("--model.weight_quantizer", "mine.py:Soft"), ("--model.input_quantizer", "mine.py:Soft")
SHORT = ("--dataset", "toy", "--epochs", "1", "--batch_size", "128", "--threads", "1")
MLP = ("--model.widths", "64,16,4", *SHORT)
VERBS: dict[str, str] = {"evaluate": "", "verify": "", "pack": "-o x.1bit", "export": "--to torch -o x.pth"}


@pytest.fixture(autouse=True)
def code(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with mine.py; a process that has named no code."""
    for table in (WEIGHT_QUANTIZERS, INPUT_QUANTIZERS):
        monkeypatch.setattr(table, "data", {**table.data})
    monkeypatch.setattr(own_model, "_NAMED", {})
    (here / "mine.py").write_text(CODE)
    return here


@pytest.fixture
def train(onebit: Onebit) -> Onebit:
    """Train a little; the run folder is `run`."""

    def run(*arguments: object, model: str = "") -> Outcome:
        net = ["--model", model, *SHORT] if model else MLP
        done = onebit("train", *net, "--out", "run", *arguments)
        assert done.status == 0, done.err
        return done

    return run


def all_verbs_agree(onebit: Onebit, named: tuple[str, ...], accuracy: float) -> None:
    """The verbs after `train` find the accuracy of the run, with its code named."""
    for source in (["run", *named], ["run", *named, "--weights", "packed"]):
        assert onebit("evaluate", *source, "--json").json["accuracy"] == accuracy
    assert onebit("verify", "run", *named, "--json").json["ok"]
    assert onebit("pack", "run", *named, "-o", "net.1bit").status == 0
    assert onebit("evaluate", "net.1bit", "--json").json["accuracy"] == accuracy
    assert onebit("verify", "net.1bit", "--source", "run", *named).status == 0
    assert onebit("inspect", "run", *named, "--json").json["total"]["macs"] > 0


@pytest.mark.usefixtures("no_ink")
def test_a_net_of_float_images_goes_through_all_verbs(train: Onebit, onebit: Onebit, here: Path) -> None:
    train("--model.hidden", "12", "--method", "binaryconnect", "--epochs", "3", model="mine.py:Net")
    accuracy = json.loads((here / "run" / "result.json").read_text())["test"]["binary"]["accuracy"]
    assert accuracy > 0.5
    model = read_settings(here / "run" / "recipe.yaml")["model"]
    assert (model["name"], model["arguments"], model["coding"]) == ("mine.py:Net", {"hidden": 12}, "standardize")
    opened = open_run("run").model
    assert isinstance(opened[0], InputCoding)
    mean, std = library.load_dataset("toy").train.channel_statistics()
    assert (opened[0].mean.item(), opened[0].std.item()) == pytest.approx((mean[0], std[0]), rel=1e-6)
    all_verbs_agree(onebit, NET, accuracy)
    assert onebit("report", "run", "-o", "report").status == 0
    assert onebit("export", "run", *NET, "--to", "torch", "-o", "plain.pth").status == 0
    assert set(read_state(here / "plain.pth")[0]["model_fc.weight"].unique().tolist()) == {-1.0, 1.0}


def test_quantizers_of_weights_and_inputs_go_through_all_verbs(train: Onebit, onebit: Onebit, here: Path) -> None:
    done = train(*WEIGHTS, *INPUTS, "--model.weight_options.steepness", "3", "--epochs", "3", "--json")
    model = read_settings(here / "run" / "recipe.yaml")["model"]
    assert (model["weight_quantizer"], model["weight_options"]) == ("mine.py:Soft", {"steepness": 3})
    layer = open_run("run").model.linear2
    assert (layer.weight_quantizer.steepness, layer.input_quantizer.steepness) == (3, 2)
    all_verbs_agree(onebit, (*WEIGHTS, *INPUTS), done.json["test"]["binary"]["accuracy"])
    assert "mine.py:Soft" in onebit("summary", "run", *WEIGHTS, *INPUTS).out
    assert onebit("summary", "--model", "mlp", "--dataset", "mnist", *WEIGHTS).status == 0
    card = load("net.1bit").card
    assert card is not None
    assert "weights Soft, inputs Soft" in str(card.method)
    assert card.command is None  # it needs a file of the user


def test_arguments_are_typed_the_coding_can_be_chosen_and_a_method_keeps_real_ends(train: Onebit, here: Path) -> None:
    given = ["--model.widths", "3,4", "--model.mode", "1e3", "--model.bias", "false", "--model.scale", "2"]
    train(*given, "--model.coding", "integer", "--method", "xnor", model="mine.py:Net")
    coding, net = open_run("run").model
    assert net.given == (16, (3, 4), "1e3", False, 2.0)
    assert coding.coding == "integer"
    assert [name for name, _ in library.layers.binary_layers(net)] == ["fc"]
    train("--overwrite", model="mine.py:Pixels")  # which takes images as they are
    assert read_settings(here / "run" / "recipe.yaml")["model"]["coding"] == "none"
    assert type(open_run("run").model).__name__ == "Pixels"


@pytest.mark.parametrize(("path", "name"), [("own_pack/deep.py", "own_pack.deep"), ("torch.py", "torch.py")])
def test_code_is_a_module_with_dots_or_a_file_of_any_name(
    train: Onebit, onebit: Onebit, here: Path, path: str, name: str
) -> None:
    (here / path).parent.mkdir(exist_ok=True)
    (here / path).write_text(CODE)
    train(model=f"{name}:Net")
    assert read_settings(here / "run" / "recipe.yaml")["model"]["last_norm"] is None
    assert onebit("evaluate", "run", *NET).status == 0


def test_two_stages_and_seeds_resume_with_their_code(onebit: Onebit, train: Onebit, here: Path) -> None:
    train("--first_stage", "1", "--seeds", "0,1", model="mine.py:Net")
    assert (here / "run" / "seed-1" / "stage1" / "result.json").exists()
    assert onebit("evaluate", "run/seed-1/stage1", *NET).status == 0
    own_model._NAMED.clear()  # as in another process
    assert onebit("train", "--resume", "run/seed-0").status == 2
    assert onebit("train", "--resume", "run/seed-0", *NET).status == 0


def test_an_interrupted_run_resumes_with_the_code_in_another_place(
    train: Onebit, onebit: Onebit, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: TrainingPrinter, row: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingPrinter, "epoch", stop)
        done = onebit("train", *MLP, "--epochs", "2", *WEIGHTS, "--out", "run")
        assert (done.status, f"train {' '.join(WEIGHTS)} --resume run" in done.err) == (130, True)
    own_model._NAMED.clear()
    assert "--model.weight_quantizer mine.py:Soft" in onebit("train", "--resume", "run").line
    (here / "elsewhere").mkdir()
    (here / "mine.py").rename(here / "elsewhere" / "mine.py")
    moved = ("--model.weight_quantizer", "elsewhere/mine.py:Soft")
    assert onebit("train", "--resume", "run", *moved, "--model.weight_options.steepness", "9").status == 2
    assert onebit("train", "--resume", "run", *moved).status == 0
    assert onebit("verify", "run", *moved).status == 0


def test_help_lists_the_arguments(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = onebit("train", *NET, "--help").out
    assert "arguments of mine.py:Net:" in text
    assert "  --model.hidden 16                  int\n" in text
    assert "required" in onebit("train", "--model", "mine.py:function", "--help").out


WRONG = """
--model mine.py:Nett
--model net.py:Net
--model nets/net:Net
--model mine.py
--model no.such:Net
--model mine.py:number
--model mine.py:Net --model.hiden 3
--model mine.py:Net --model.hidden x
--model mine.py:function
--model mine.py:Few
--model mine.py:Broken
--model mine.py:Broken --model.late
--model mine.py:binary
--model mine.py:Net --model.coding none
--model broken.py:Net
--model mlp --model.arguments.hidden 3
--model.weight_quantizer mine.py:Few
--model.weight_quantizer mine.py:Missing
--model.weight_quantizer missing.py:Soft
--model.weight_quantizer mine.py
--model.weight_quantizer mine.py:number
"""


@pytest.mark.parametrize("words", WRONG.strip().splitlines())
def test_wrong_code_is_one_line(onebit: Onebit, here: Path, words: str) -> None:
    (here / "broken.py").write_text("class Net(:\n")
    done = onebit("train", *words.split(), *SHORT, "--out", "run")
    assert (done.status, bool(done.line), (here / "run").exists()) == (2, True, False)


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that brings its own code."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        Path("evil.py").write_text(CODE)
        assert main(["train", "--model", "evil.py:Net", *SHORT, "--out", "run"]) == 0
    (folder / "run" / "evil.py").write_text(CODE + "# never run before\n")
    return folder / "run"


def renamed(folder: Path, old: str, new: str) -> None:
    """Name other code in the recipe of a run, whose weight files lose their recipe."""
    state, facts = read_state(folder / "final.safetensors")
    for name in ("best", "final"):
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
    torch.save({"state_dict": state}, folder / "last.ckpt")
    text = (folder / "recipe.yaml").read_text()
    assert old in text
    (folder / "recipe.yaml").write_text(text.replace(old, new))
    assert facts["recipe"]["model"]["name"] in text


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        *(("evaluate", "run/evil.py:Net"), ("evaluate", "run.evil:Net"), ("evaluate", "os:system")),
        *(("verify", "run/evil.py:Net"), ("pack", "run.evil:Net"), ("export", "run/evil.py:Net")),
        *(("train", "run/evil.py:Net"), ("train", "os:system")),
    ],
)
def test_a_model_that_only_a_run_folder_names_is_not_run(
    onebit: Onebit, brought: Path, here: Path, verb: str, code: str
) -> None:
    shutil.copytree(brought, here / "run")
    renamed(here / "run", "evil.py:Net", code)
    refused = onebit(verb, *(["--resume"] if verb == "train" else []), "run", *VERBS.get(verb, "").split())
    assert (refused.status, f"--model {code}" in refused.line) == (2, True)
    assert not (here / "was-here").exists()


@pytest.mark.usefixtures("no_ink")
def test_only_named_code_of_a_run_folder_is_run(onebit: Onebit, brought: Path, here: Path) -> None:
    shutil.copytree(brought, here / "run")
    renamed(here / "run", "evil.py:Net", "run/evil.py:Net")
    assert onebit("inspect", "run").status == 0
    assert onebit("report", "run", "-o", "report").status == 0
    assert not (here / "was-here").exists()
    assert onebit("evaluate", "run", "--model", "run/evil.py:Net").status == 0
    assert (here / "was-here").exists()


@pytest.mark.parametrize("flag", ["--model.weight_quantizer", "--model.input_quantizer"])
def test_a_quantizer_that_only_a_file_names_is_not_run(train: Onebit, onebit: Onebit, here: Path, flag: str) -> None:
    train(flag, "mine.py:Soft")
    (here / "was-here").unlink()
    own_model._NAMED.clear()
    for verb, options in VERBS.items():
        assert f"{flag} mine.py:Soft" in onebit(verb, "run", *options.split()).line
    for words in (["run/recipe.yaml", "--out", "other"], ["--resume", "run"], [*MLP, "--teacher", "run"]):
        assert "mine.py:Soft" in onebit("train", *words).line
    assert onebit("train", "run/recipe.yaml", "--print-config").status == 0
    assert onebit("inspect", "run").status == 0
    assert not (here / "was-here").exists()
    assert onebit("evaluate", "run", flag, "mine.py:Soft").status == 0
    assert (here / "was-here").exists()
    for other in ("sign", "mine.py:Halved", "Soft"):  # a run is opened with no other than its own
        assert onebit("evaluate", "run", flag, other).status == 2


def test_a_quantizer_of_inputs_that_states_nothing_does_not_pack(train: Onebit, onebit: Onebit) -> None:
    flags = ("--model.input_quantizer", "mine.py:Unstated")
    train(*flags)
    assert "Unstated" in onebit("pack", "run", *flags, "-o", "net.1bit").line


def test_the_folders_of_trainer_and_fit_are_opened_with_their_code(onebit: Onebit, here: Path) -> None:
    made: dict[str, Any] = {}
    exec(CODE, made)
    trainer = library.Trainer(made["mlp"](8), "ste", epochs=1, batch_size=128, device="cpu")
    trainer.fit("toy", folder="run", verbose=False)
    assert "--model FILE.py:Sequential" in onebit("evaluate", "run").line
    named = ["--model", "mine.py:mlp", "--model.units", "8"]
    assert onebit("evaluate", "run", *named, "--json").json["correct"] == trainer.evaluate().correct
    assert onebit("verify", *named, "run", "--json").json["ok"]
    assert onebit("pack", "run", *named, "-o", "net.1bit").status == 0
    assert onebit("evaluate", "run", "--model", "mine.py:mlp", "--model.units", "9").status == 2

    net, data = made["binary"](), library.load_dataset("toy")
    optimizer = library.clip_latents_(torch.optim.Adam(library.latent_groups(net, lr=0.01)))
    library.fit(net, data, optimizer, epochs=1, batch_size=128, folder="fitted", verbose=False)
    assert "--model FILE.py:Class" in onebit("evaluate", "fitted").line
    named = ["--model", "mine.py:binary"]
    found = onebit("evaluate", "fitted", *named, "--json").json
    code = library.models.settings.Custom(name="mine.py:binary", coding="none", weight_quantizer=None)
    right = library.evaluate(open_run("fitted", model=code).model, data.test).correct
    assert (found["dataset"], found["correct"]) == ("toy", right)
    assert onebit("verify", "fitted", *named).status == 0


def test_a_model_of_onebit_needs_no_code(onebit: Onebit, run_folder: Path) -> None:
    for words, noun in (
        (NET, ""),
        (("--model", "mlp"), "mlp"),
        (("--model.hidden", "3"), "--model.hidden"),
        (("--modle", "3"), "--modle"),
        (WEIGHTS, ""),
    ):
        refused = onebit("evaluate", run_folder, *words)
        assert (refused.status, noun in refused.line) == (2, True)
