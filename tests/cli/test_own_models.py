"""Models of the user's own on the command line: `--model FILE.py:Class`, and the run folders of such nets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import onebit as library
from onebit.__main__ import main
from onebit.layers import InputCoding
from onebit.recipe import read_settings
from onebit.runs import own_model
from onebit.runs.run import open_run
from onebit.train.weights import read_state
from support.command_line import Onebit, Outcome

NETS = '''
import torch
from torch import nn

import onebit


class Net(nn.Module):
    """A net that takes float images."""

    def __init__(self, hidden: int = 16, *, widths: tuple[int, ...] = (), mode: str = "max", bias=True, scale=1.0):
        super().__init__()
        self.given = (hidden, widths, mode, bias, scale)
        self.conv = nn.Conv2d(1, 4, 3, stride=2, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(4 * 6 * 6, hidden)
        self.norm1 = nn.BatchNorm1d(hidden)
        self.out = nn.Linear(hidden, 10)
        self.norm2 = nn.BatchNorm1d(10)

    def forward(self, x):
        x = self.pool(self.norm(self.conv(x)))
        return self.norm2(self.out(self.norm1(self.fc(self.flat(x)))))


class Pixels(Net):
    """A net that takes uint8 images."""

    def forward(self, x):
        return super().forward(x.float() / 255)


def function(needed, width: int = 4):
    print("noise of its own")
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.BatchNorm1d(width), nn.Linear(width, 10))


def binary():
    layers = onebit.BinaryLinear(784, 10, weight_quantizer="ste_sign"), nn.BatchNorm1d(10)
    return nn.Sequential(onebit.InputCoding(), nn.Flatten(), *layers)


class Few(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 7))


class Broken(nn.Module):
    def __init__(self, late: bool = False):
        super().__init__()
        self.fc = nn.Linear(784, 10)
        if not late:
            raise RuntimeError("no such part")

    def forward(self, x):
        return [][3]


number = 3
'''
NET = ("--model", "nets.py:Net")
SHORT = ("--dataset", "mnist-sample", "--epochs", "0.3", "--threads", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nets.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


@pytest.fixture
def train(onebit: Onebit, here: Path) -> Onebit:
    """Train a little; the run folder is `run`."""

    def run(*arguments: object, model: str = "nets.py:Net") -> Outcome:
        done = onebit("train", "--model", model, *SHORT, "--out", "run", *arguments)
        assert done.status == 0, done.err
        return done

    return run


@pytest.mark.usefixtures("no_ink")
def test_a_net_of_float_images_goes_through_all_verbs(train: Onebit, onebit: Onebit, here: Path) -> None:
    train("--model.hidden", "12", "--method", "binaryconnect", "--epochs", "2")
    accuracy = json.loads((here / "run" / "result.json").read_text())["test"]["binary"]["accuracy"]
    assert accuracy > 0.5

    model = read_settings(here / "run" / "recipe.yaml")["model"]
    assert (model["name"], model["arguments"], model["coding"]) == ("nets.py:Net", {"hidden": 12}, "standardize")
    opened = open_run("run").model
    assert isinstance(opened[0], InputCoding)
    mean, std = library.load_dataset("mnist-sample", validation=1000).train.channel_statistics()
    assert (opened[0].mean.item(), opened[0].std.item()) == pytest.approx((mean[0], std[0]), rel=1e-6)

    assert onebit("evaluate", "run", *NET, "--json").json["accuracy"] == accuracy
    assert onebit("verify", "run", *NET, "--json").json["ok"]
    assert onebit("pack", "run", *NET, "-o", "net.1bit").status == 0
    assert onebit("evaluate", "net.1bit", "--json").json["accuracy"] == accuracy
    assert onebit("evaluate", "run", *NET, "--weights", "packed", "--json").json["accuracy"] == accuracy
    assert onebit("verify", "net.1bit", "--source", "run").status == 0
    assert onebit("inspect", "run", "--json").json["total"]["macs"] > 0
    assert onebit("report", "run", "-o", "report").status == 0
    assert onebit("export", "run", *NET, "--to", "torch", "-o", "plain.pth").status == 0
    state = read_state(here / "plain.pth")[0]
    assert set(state["model_fc.weight"].unique().tolist()) == {-1.0, 1.0}


def test_a_net_of_uint8_images_gets_them_as_they_are_and_a_seed_gives_its_weights(train: Onebit, here: Path) -> None:
    states = []
    for _ in range(2):
        train("--overwrite", model="nets.py:Pixels")
        states.append(read_state(here / "run" / "final.safetensors")[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert read_settings(here / "run" / "recipe.yaml")["model"]["coding"] == "none"
    assert type(open_run("run").model).__name__ == "Pixels"


def test_arguments_are_typed_the_coding_can_be_chosen_and_a_method_keeps_real_ends(train: Onebit) -> None:
    given = ["--model.widths", "3,4", "--model.mode", "1e3", "--model.bias", "false", "--model.scale", "2"]
    train(*given, "--model.coding", "integer", "--method", "xnor")
    coding, net = open_run("run").model
    assert net.given == (16, (3, 4), "1e3", False, 2.0)
    assert coding.coding == "integer"
    assert [name for name, _ in library.layers.binary_layers(net)] == ["fc"]


@pytest.mark.parametrize(("path", "name"), [("own_pack/deep.py", "own_pack.deep"), ("torch.py", "torch.py")])
def test_code_is_a_module_with_dots_or_a_file_of_any_name(onebit: Onebit, here: Path, path: str, name: str) -> None:
    (here / path).parent.mkdir(exist_ok=True)
    (here / path).write_text(NETS)
    assert onebit("train", "--model", f"{name}:Net", *SHORT, "--out", "run").status == 0
    assert read_settings(here / "run" / "recipe.yaml")["model"]["last_norm"] is None
    assert onebit("evaluate", "run", *NET).status == 0


def test_two_stages_and_seeds_and_a_resumed_training(onebit: Onebit, train: Onebit, here: Path) -> None:
    train("--first_stage", "0.3", "--seeds", "0,1")
    assert (here / "run" / "seed-1" / "stage1" / "result.json").exists()
    assert onebit("evaluate", "run/seed-1/stage1", *NET).status == 0
    own_model._NAMED.clear()  # as in another process
    assert onebit("train", "--resume", "run/seed-0").status == 2
    assert onebit("train", "--resume", "run/seed-0", *NET).status == 0


def test_help_lists_the_arguments(onebit: Onebit, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = onebit("train", "--model", "nets.py:Net", "--help").out
    assert "arguments of nets.py:Net:" in text
    assert "  --model.hidden 16                  int\n" in text
    assert "required" in onebit("train", "--model", "nets.py:function", "--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nets.py:Nett"],
        ["net.py:Net"],
        ["nets/net:Net"],
        ["nets.py"],
        ["no.such:Net"],
        ["nets.py:number"],
        ["nets.py:Net", "--model.hiden", "3"],
        ["nets.py:Net", "--model.hidden", "x"],
        ["nets.py:function"],
        ["nets.py:Few"],
        ["nets.py:Broken"],
        ["nets.py:Broken", "--model.late"],
        ["nets.py:binary"],
        ["nets.py:Net", "--model.coding", "none"],
        ["broken.py:Net"],
        ["mlp", "--model.arguments.hidden", "3"],
    ],
)
def test_wrong_custom_models_are_one_line(onebit: Onebit, here: Path, arguments: list[str]) -> None:
    (here / "broken.py").write_text("class Net(:\n")
    done = onebit("train", "--model", *arguments, *SHORT, "--out", "run")
    assert (done.status, "Traceback" in done.err) == (2, False)
    assert not (here / "run").exists()


EVIL = "from pathlib import Path\nPath('was-here').touch()\n" + NETS


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that brings its own code."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        Path("evil.py").write_text(EVIL)
        assert main(["train", "--model", "evil.py:Net", *SHORT, "--out", "run"]) == 0
    (folder / "run" / "evil.py").write_text(EVIL + "# never run before\n")
    return folder / "run"


@pytest.fixture
def foreign(brought: Path, here: Path) -> Path:
    """A folder with a copy of it, trained elsewhere; the current folder."""
    shutil.copytree(brought, here / "run")
    return here


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
def test_code_that_only_a_run_folder_names_is_not_run(onebit: Onebit, foreign: Path, verb: str, code: str) -> None:
    renamed(foreign / "run", "evil.py:Net", code)
    extra = {"pack": ["-o", "x.1bit"], "export": ["--to", "torch", "-o", "x.pth"]}.get(verb, [])
    refused = onebit(verb, *(["--resume"] if verb == "train" else []), "run", *extra)
    assert refused.status == 2
    assert f"--model {code}" in refused.line
    assert not (foreign / "was-here").exists()


@pytest.mark.usefixtures("no_ink")
def test_only_named_code_of_a_run_folder_is_run(onebit: Onebit, foreign: Path) -> None:
    renamed(foreign / "run", "evil.py:Net", "run/evil.py:Net")
    assert onebit("inspect", "run").status == 0
    assert onebit("report", "run", "-o", "report").status == 0
    assert not (foreign / "was-here").exists()
    assert onebit("evaluate", "run", "--model", "run/evil.py:Net").status == 0
    assert (foreign / "was-here").exists()


def test_the_folder_of_a_trainer_is_opened_with_its_code(onebit: Onebit, here: Path) -> None:
    net = nn.Sequential(
        InputCoding(), nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, 10), nn.BatchNorm1d(10)
    )
    trainer = library.Trainer(net, "ste", epochs=1, batch_size=500, device="cpu")
    trainer.fit("mnist-sample", folder="run", verbose=False)
    (here / "same.py").write_text(
        "from torch import nn\nimport onebit\n\n\ndef net(units: int):\n"
        "    dense = nn.Linear(784, units), nn.BatchNorm1d(units), nn.Linear(units, 10), nn.BatchNorm1d(10)\n"
        "    return nn.Sequential(onebit.InputCoding(), nn.Flatten(), *dense)\n"
    )
    refused = onebit("evaluate", "run")
    assert refused.status == 2
    assert "--model FILE.py:Sequential" in refused.line
    named = ["--model", "same.py:net", "--model.units", "8"]
    assert onebit("evaluate", "run", *named, "--json").json["correct"] == trainer.evaluate().correct
    assert onebit("verify", *named, "run", "--json").json["ok"]
    assert onebit("pack", "run", *named, "-o", "net.1bit").status == 0
    assert onebit("evaluate", "run", "--model", "same.py:net", "--model.units", "9").status == 2


def test_the_folder_of_fit_is_opened_with_its_code(onebit: Onebit, here: Path) -> None:
    code: dict[str, Any] = {}
    exec(NETS, code)
    net, data = code["binary"](), library.load_dataset("mnist-sample", validation=500)
    optimizer = library.clip_latents_(torch.optim.Adam(library.latent_groups(net, lr=0.01)))
    library.fit(net, data, optimizer, epochs=1, batch_size=500, folder="run", verbose=False)
    refused = onebit("evaluate", "run")
    assert "--model FILE.py:Class" in refused.line
    done = onebit("evaluate", "run", "--model", "nets.py:binary", "--json")
    assert done.json["dataset"] == "mnist-sample"
    code = library.recipe.ModelRecipe(name="nets.py:binary", coding="none", weight_quantizer=None)
    assert done.json["correct"] == library.evaluate(open_run("run", model=code).model, data.test).correct
    assert onebit("verify", "run", "--model", "nets.py:binary").status == 0


def test_a_model_of_onebit_needs_no_code(onebit: Onebit, run_folder: Path, here: Path) -> None:
    assert onebit("evaluate", run_folder, "--model", "nets.py:Net").status == 2
    assert "mlp" in onebit("evaluate", run_folder, "--model", "mlp").line
    assert "--model.hidden" in onebit("evaluate", run_folder, "--model.hidden", "3").line
    assert onebit("evaluate", run_folder, "--modle", "3").status == 2
