"""`onebit export`: what it takes and compares, and that nothing is left behind when it fails."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onebit.errors import DataError
from onebit.export import EXPORTS, CannotRun, Target
from onebit.packed import Certificate, Conv, PackedNet, load, nodes, save
from onebit.runtime import run
from support.command_line import Onebit
from support.packed_nets import NETS_OF_OTHER_INPUTS, Builder
from support.stand_in_models import language_model, save_pretrained


class Archive:
    """A target in memory: the net itself, packed; what it gives is that of the net, or what `change` makes of it."""

    OPERATIONS = frozenset(kind for kind in vars(nodes).values() if isinstance(kind, type)) - {Conv}
    EXACT = True
    RUNS_WITH = "the archive"
    change: Callable[[np.ndarray], np.ndarray] = staticmethod(lambda outputs: outputs)
    options: dict[str, str]

    def write(self, net: PackedNet, path: Path, **options: str) -> None:
        self.options = options
        save(net, path.with_suffix(".1bit"))
        path.with_suffix(".1bit").rename(path)

    def run(self, net: PackedNet, path: Path, inputs: np.ndarray, **options: str) -> dict[str, np.ndarray]:
        return {name: self.change(outputs) for name, outputs in net.by_name(run(net, inputs)).items()}

    def report(self, net: PackedNet, path: Path, **options: str) -> str:
        return f"{path.stat().st_size} bytes of flash"


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The target `archive`, with an option and a report."""
    writer = Archive()
    entry = Target(text="copy", module="archive", suffixes=(".zip",), options={"form": ("long", "short")}, report=True)
    monkeypatch.setitem(EXPORTS, "archive", entry)
    monkeypatch.setitem(sys.modules, "archive", writer)
    return writer


def left(folder: Path) -> list[str]:
    """All files and folders, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_all_sources_export_the_same_net(onebit: Onebit, run_folder: Path, packed_file: Path, here: Path) -> None:
    shutil.copy(run_folder / "best.safetensors", "weights.safetensors")
    recipe = ["--recipe", run_folder / "recipe.yaml"]
    sources = {"packed": [packed_file], "run": [run_folder], "weights": ["weights.safetensors", *recipe]}
    for name, source in sources.items():
        found = onebit("export", *source, "--to", "torch", "-o", f"{name}.pth", "--images", "50", "--json").json
        assert found["comparison"]["label_mismatches"] == 0
        assert found["comparison"]["what"] == "50 mnist-sample test images"
        assert found["files"] == [f"{name}.pth", f"{name}.py"]
        assert found["bytes"] == sum(Path(file).stat().st_size for file in found["files"])
    assert len({Path(f"{name}.py").read_text() for name in sources}) == 1
    layers = [onebit("inspect", f"{name}.pth", "--json").json["layers"] for name in sources]
    assert layers[0] == layers[1] == layers[2]


def test_inputs_are_images_or_random(onebit: Onebit, here: Path, archive: Archive, certificate: Certificate) -> None:
    """Also of a net that multiplies nothing."""
    b = Builder((1, 28, 28))
    b.add(nodes.AdaptiveAveragePool, size=(1, 10))
    b.add(nodes.Flatten)
    save(replace(b.net(), certificate=replace(certificate, dataset="mnist-sample")), "net.1bit")
    save(next(iter(NETS_OF_OTHER_INPUTS.values()))(), "other.1bit")
    for name, what in (("net", "200 mnist-sample test images"), ("other", "20 random inputs")):
        done = onebit("export", f"{name}.1bit", "--to", "archive", "-o", f"{name}.zip", "--json")
        assert done.json["comparison"]["what"] == what


def test_without_data_it_says_so(
    onebit: Onebit, run_folder: Path, packed_file: Path, here: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise DataError("no such folder")

    monkeypatch.setattr("onebit.cli.export_verb.load_data", missing)
    for source in (run_folder, packed_file):
        request = ["export", source, "--to", "archive", "-o", "net.zip"]
        for flags, what in (([], "20 random inputs"), (["--images", "7"], "7 random inputs")):
            done = onebit(*request, *flags, "--json")
            assert "no such folder" in done.err
            assert done.json["comparison"]["what"] == what
        assert "no such folder" in onebit(*request, "--data", "somewhere").line  # asked for
    net = load(packed_file)
    assert net.certificate is not None  # of data that are not stored
    save(replace(net, certificate=replace(net.certificate, dataset="own data (arrays)", split="")), "own.1bit")
    assert "not compared" in onebit("export", "own.1bit", "--to", "archive", "-o", "net.zip").err
    for verb in ("evaluate", "verify"):
        assert "own data" in onebit(verb, "own.1bit").line


@pytest.mark.parametrize(
    "words",
    [
        "--to torch -o x.bin",
        "--to torch -o x.pth --form long",
        "--to archive -o x.zip --form lng",
        "--to torch -o x.pth --report",
        "--to torch -o folder.pth",
        "--to torch -o file/x.pth",
        "--to torch -o mine.pth",
    ],
)
def test_a_request_is_refused_before_the_net_is_read_and_nothing_is_written(
    words: str, onebit: Onebit, here: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onebit.cli.export_verb._opened", None)
    (here / "folder.pth").mkdir()
    (here / "file").touch()
    (here / "mine.py").write_text("print('my own program')\n")
    before = left(here)
    refused = onebit("export", "mnist-mlp", *words.split())
    assert (refused.status, refused.out) == (2, "")
    assert refused.line
    assert left(here) == before
    assert (here / "mine.py").read_text() == "print('my own program')\n"


def test_a_net_that_differs_is_not_delivered(onebit: Onebit, here: Path, archive: Archive) -> None:
    request = ["export", "mnist-mlp", "--to", "archive", "-o"]
    exported = onebit(*request, "x.zip", "--form", "short", "--report", "--json").json
    assert exported["comparison"]["bit_exact"]
    assert exported["report"] == f"{exported['bytes']} bytes of flash"
    assert archive.options == {"form": "short"}
    before = Path("x.zip").read_bytes()
    archive.change = lambda outputs: np.nextafter(outputs, np.float32(np.inf))  # the last bit
    for output in ("x.zip", "new.zip"):
        refused = onebit(*request, output)
        assert (refused.status, refused.out, bool(refused.line)) == (2, "", True)
        assert left(here) == ["x.zip"]
        assert Path("x.zip").read_bytes() == before

    def stop(outputs: np.ndarray) -> np.ndarray:
        raise CannotRun("the archive is not installed")

    archive.change = stop
    assert "the archive is not installed" in onebit(*request, "x.zip").out.splitlines()[-1]
    assert onebit(*request, "x.zip", "--json").json["comparison"] is None
    assert left(here) == ["x.zip"]


def test_a_folder_of_save_pretrained_becomes_gguf(here: Path, onebit: Onebit) -> None:
    pytest.importorskip("gguf")
    save_pretrained(language_model(), here / "folder")
    made = onebit("export", "folder", "--to", "gguf", "-o", "x.gguf", "--rest", "f16", "--json").json
    assert made["bytes"] == (here / "x.gguf").stat().st_size
    assert made["tensors"]["Q1_0"] == [12, 229_376]
    assert made["tensors"]["F16"][0] == 4
    assert "equal" in made["checked"]
    for words, noun in (
        ("folder --to gguf -o y.gguf --rest q4_0", "q4_0"),
        ("folder --to gguf -o y.gguf --tokenizer none", "none"),
        ("folder --to gguf -o y.onnx", "gguf"),
        ("mnist-mlp --to gguf -o y.gguf", "mnist-mlp"),
        ("mnist-mlp --to onnx -o y.onnx --pre gpt-2", "pre"),
    ):
        refused = onebit("export", *words.split())
        assert (refused.status, noun in refused.line) == (2, True)
    assert not list(here.glob("y.*"))
