"""`export_net`: only an equal net is written, and only files of onebit are replaced."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from onebit.errors import OnebitError, UnknownNameError, UsageError
from onebit.export import EXPORTS, CannotRun, Target, export_net
from onebit.packed import OPS, Dense, PackedNet, costs
from onebit.runtime import run
from support.packed_nets import NETS_OF_OTHER_INPUTS, inputs_of, real_net, sign_net

Outputs = dict[str, np.ndarray]
AddTarget = Callable[..., ModuleType]


@pytest.fixture
def add_target(monkeypatch: pytest.MonkeyPatch) -> AddTarget:
    """Adds a target to the table: a module and a line."""

    def add(name: str, **fields: Any) -> ModuleType:
        module = ModuleType(f"made_{name}")

        def write(net: PackedNet, path: Path, **options: str) -> None:
            if entry.suffixes:
                path.write_text(f"{name} {options}")
                return
            assert list(path.iterdir()) == []
            (path / "net.txt").write_text(f"{name}, written by onebit")
            (path / "src").mkdir()
            (path / "src" / "more.txt").write_text("more, written by onebit")

        def give(net: PackedNet, path: Path, inputs: np.ndarray, **options: str) -> Outputs:
            assert path.exists()
            return net.by_name(run(net, inputs))

        vars(module).update(OPERATIONS=OPS.values(), EXACT=True, RUNS_WITH="a test", write=write, run=give)
        entry = Target(text="made up", module=module.__name__, **fields)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(EXPORTS, name, entry)
        return module

    return add


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """C is written but neither compiled nor compared."""
    monkeypatch.setenv("PATH", "")


def test_a_file_is_written_with_the_options_and_compared(add_target: AddTarget, tmp_path: Path) -> None:
    add_target("own", suffixes=(".own",), options={"form": ("a", "b")})
    path = tmp_path / "net.own"
    made = export_net(sign_net(), "own", path)
    assert made.files == (path,)
    assert path.read_text() == "own {'form': 'a'}"
    assert made.size == len(path.read_bytes())
    assert made.comparison is not None
    assert made.comparison.bit_exact
    assert made.comparison.what == "20 random inputs"
    assert str(made).splitlines() == [f"{path}: {made.size} B", str(made.comparison)]
    assert export_net(sign_net(), "own", str(path), form="b").files[0].read_text() == "own {'form': 'b'}"
    for given, what in (({"count": 3}, "3 random inputs"), ({"inputs": inputs_of(sign_net(), 3)}, "3 inputs")):
        few = export_net(sign_net(), "own", path, **given).comparison  # type: ignore[arg-type]
        assert few is not None
        assert (few.samples, few.what) == (3, what)


def test_a_large_net_is_compared_on_fewer_inputs(
    add_target: AddTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_target("own", suffixes=(".own",))
    macs = sum(row.macs for row in costs(sign_net()))
    for most, expected in ((30 * macs, 20), (7 * macs, 7), (macs // 2, 2)):
        monkeypatch.setattr("onebit.export.writing.MAX_MACS", most)
        made = export_net(sign_net(), "own", tmp_path / "net.own").comparison
        assert made is not None
        assert made.samples == expected


def test_a_folder_is_written_again_but_a_file_of_the_user_is_kept(add_target: AddTarget, tmp_path: Path) -> None:
    add_target("own")
    for _ in range(2):
        made = export_net(sign_net(), "own", tmp_path / "net")
        assert [str(file.relative_to(tmp_path)) for file in made.files] == ["net/net.txt", "net/src/more.txt"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["net"]
    (tmp_path / "mine" / "src").mkdir(parents=True)
    mine = tmp_path / "mine" / "src" / "more.txt"
    mine.write_text("mine")
    with pytest.raises(UsageError, match="more"):
        export_net(sign_net(), "own", tmp_path / "mine")
    assert mine.read_text() == "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["src"]


@pytest.mark.parametrize("layout", ["make", "arduino"])
@pytest.mark.usefixtures("without_compiler")
def test_each_file_of_c_is_replaced_only_if_onebit_wrote_it(layout: str, tmp_path: Path) -> None:
    for net in (replace(sign_net(), name="\u7d50" * 90), real_net()):  # also after a long name
        files = export_net(net, "c", tmp_path / "net", layout=layout).files
    before = {file: file.read_bytes() for file in files}
    for file in files:
        file.write_text("mine")
        with pytest.raises(UsageError, match=file.name):
            export_net(sign_net(), "c", tmp_path / "net", layout=layout)
        assert file.read_text() == "mine"
        assert all(other == file or other.read_bytes() == text for other, text in before.items())
        file.write_bytes(before[file])


def test_wrong_names_options_and_suffixes_are_errors(add_target: AddTarget, tmp_path: Path) -> None:
    add_target("own", suffixes=(".own",), options={"form": ("a", "b")})
    net, path = sign_net(), tmp_path / "net.own"
    with pytest.raises(UnknownNameError, match="'own'"):
        export_net(net, "onw", path)
    with pytest.raises(UnknownNameError, match="'c'"):
        export_net(net, "own", path, form="c")
    with pytest.raises(UsageError, match="--fom"):
        export_net(net, "own", path, fom="a")
    with pytest.raises(UsageError, match=r"\.own"):
        export_net(net, "own", tmp_path / "net.onw")
    with pytest.raises(UsageError, match="--report"):
        export_net(net, "own", path, report=True)
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_differs_or_fails_is_not_written(add_target: AddTarget, tmp_path: Path) -> None:
    module = add_target("own", suffixes=(".own",))

    def wrong(net: PackedNet, path: Path, inputs: np.ndarray) -> Outputs:
        return {name: -values for name, values in net.by_name(run(net, inputs)).items()}

    def broken(net: PackedNet, path: Path, inputs: np.ndarray) -> Outputs:
        raise RuntimeError("a fault of the target")

    for function, error in ((wrong, OnebitError), (broken, RuntimeError)):
        vars(module)["run"] = function
        with pytest.raises(error):
            export_net(real_net(), "own", tmp_path / "net.own")
        assert list(tmp_path.iterdir()) == []
    tokens = NETS_OF_OTHER_INPUTS["tokens"]()
    nan = np.full((1, *tokens.input.shape), np.nan, np.float32)
    with pytest.raises(UsageError, match="NaN"):  # the packed net runs first
        export_net(tokens, "own", tmp_path / "net.own", inputs=nan)

    def missing(net: PackedNet, path: Path, inputs: np.ndarray) -> Outputs:
        raise CannotRun("node is not installed")

    vars(module)["run"] = missing
    made = export_net(real_net(), "own", tmp_path / "net.own")
    assert (made.comparison, made.not_compared) == (None, "node is not installed")
    assert "node is not installed" in str(made)
    assert made.files[0].exists()


def test_an_operation_that_the_target_lacks_is_an_error(add_target: AddTarget, tmp_path: Path) -> None:
    vars(add_target("own", suffixes=(".own",)))["OPERATIONS"] = [Dense]
    with pytest.raises(UsageError, match="conv"):
        export_net(sign_net(), "own", tmp_path / "net.own")
    assert list(tmp_path.iterdir()) == []


def test_a_file_beside_is_replaced_only_if_onebit_wrote_it(tmp_path: Path) -> None:
    program = tmp_path / "net.py"
    program.write_text("mine = 1\n")
    with pytest.raises(UsageError, match="onebit"):
        export_net(sign_net(), "torch", tmp_path / "net.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]
    assert program.read_text() == "mine = 1\n"
    program.unlink()
    for make in (sign_net, real_net):
        export_net(make(), "torch", tmp_path / "net.pth")
    assert "input_mean" in program.read_text()
    program.unlink()
    program.mkdir()
    before = (tmp_path / "net.pth").read_bytes()
    with pytest.raises(OnebitError, match="onebit"):
        export_net(sign_net(), "torch", tmp_path / "net.pth")
    assert (tmp_path / "net.pth").read_bytes() == before


@pytest.mark.usefixtures("without_compiler")
def test_files_of_two_exports_are_not_mixed(tmp_path: Path) -> None:
    for first, second, left in (("make", "arduino", "net.c"), ("arduino", "make", "src/net.c")):
        folder = tmp_path / first
        export_net(sign_net(), "c", folder, layout=first)
        with pytest.raises(UsageError, match=left):
            export_net(real_net(), "c", folder, layout=second)
        export_net(real_net(), "c", folder, layout=first)
    export_net(sign_net(), "torch", tmp_path / "net.pt")
    before = (tmp_path / "net.py").read_bytes()
    with pytest.raises(UsageError, match="another export"):
        export_net(real_net(), "torch", tmp_path / "net.pth")
    assert (tmp_path / "net.py").read_bytes() == before
    assert not (tmp_path / "net.pth").exists()


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    link = tmp_path / "net.onnx"
    link.symlink_to("versions/1.onnx")
    export_net(sign_net(), "onnx", link)
    assert link.is_symlink()
    assert link.read_bytes() == (tmp_path / "versions" / "1.onnx").read_bytes()
