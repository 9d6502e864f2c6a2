"""`export_net` and its comparison: what counts as equal, and that only an equal net is written."""

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
from onebit.export.comparison import MOST_DISTANCE, MOST_LABELS, compare
from onebit.packed import OPS, Certificate, Dense, Flatten, PackedNet, costs
from onebit.runtime import run
from support.packed_nets import OTHER_NETS, Builder, inputs_of, real_net, sign_net

Outputs = dict[str, np.ndarray]


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Adds a target to the table: one module, one line."""

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


# ---------------------------------------------------------------------------------------------------------- comparison
def outputs_of(net: PackedNet, count: int = 100) -> Outputs:
    return net.by_name(run(net, inputs_of(net, count)))


def changed(outputs: Outputs, change: Callable[[np.ndarray], np.ndarray]) -> Outputs:
    return {name: change(values.copy()) for name, values in outputs.items()}


def test_equal_outputs() -> None:
    net = sign_net()
    expected = outputs_of(net)
    found = compare(net, expected, changed(expected, lambda values: values), what="noise", runs_with="a test")
    assert found.bit_exact
    assert (found.labels, found.label_mismatches, found.largest, found.relative) == (100, 0, 0.0, 0.0)
    assert (
        str(found) == "compared with the packed net on noise, run with a test: 0 of 100 labels differ, every bit equal"
    )
    found.check(exact=True)


def test_the_last_bit_is_seen() -> None:
    net = sign_net()
    expected = outputs_of(net)

    def one_bit(values: np.ndarray) -> np.ndarray:
        values[3, 1] = np.nextafter(values[3, 1], np.float32(np.inf))
        return values

    found = compare(net, expected, changed(expected, one_bit), what="noise", runs_with="a test")
    assert not found.bit_exact
    assert 0 < found.largest < 1e-3
    found.check(exact=False)
    with pytest.raises(OnebitError, match=r"the exported net is not the packed net: .*; nothing was written"):
        found.check(exact=True)


@pytest.mark.parametrize(("share", "passes"), [(MOST_LABELS, True), (MOST_LABELS + 0.01, False)])
def test_a_target_may_round_a_few_labels_to_the_other_side(share: float, passes: bool) -> None:
    net = sign_net()
    expected = outputs_of(net)

    def flipped(values: np.ndarray) -> np.ndarray:
        for row in range(round(share * len(values))):
            values[row, values[row].argmin()] = values[row].max() + 1
        return values

    found = compare(net, expected, changed(expected, flipped), what="noise", runs_with="a test")
    assert found.label_mismatches == round(100 * share)
    if passes:
        found.check(exact=False)
    else:
        with pytest.raises(OnebitError, match="6 of 100 labels differ"):
            found.check(exact=False)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_outputs_that_are_no_logits_differ_by_their_distance(factor: float) -> None:
    net = OTHER_NETS["features"]()
    expected = outputs_of(net)
    moved = changed(expected, lambda values: values + np.float32(factor * MOST_DISTANCE) * np.abs(values).max())
    found = compare(net, expected, moved, what="noise", runs_with="a test")
    assert found.labels is None
    assert "largest difference" in str(found)
    if factor < 1:
        found.check(exact=False)
    else:
        with pytest.raises(OnebitError, match="is not the packed net"):
            found.check(exact=False)


def compared_as(kind: str, certificate: Certificate) -> PackedNet:
    """A net of 5 outputs that is certified to have labels, several labels, or values."""
    return replace(sign_net(), certificate=replace(certificate, compared=kind))


def test_a_regression_has_no_labels(certificate: Certificate) -> None:
    """One number of five is wrong by a fifth of its range: the argmax may be the same, and the others are larger."""
    net = compared_as("values", certificate)
    expected = outputs_of(net)
    (name,) = expected
    expected[name] *= np.float32([1, 1, 1, 1, 1e-6])
    expected[name] += np.float32([0, 0, 0, 100, 0])

    def moved(factor: float) -> Outputs:
        added = np.float32(factor) * np.ptp(expected[name], axis=0) * np.float32([0, 0, 0, 0, 1])
        return {name: expected[name] + added}

    found = compare(net, expected, moved(0.2), what="noise", runs_with="a test")
    assert (found.labels, found.label_mismatches) == (None, None)
    assert "label" not in str(found)
    assert found.relative == pytest.approx(0.2, rel=1e-3)
    with pytest.raises(OnebitError, match="is not the packed net"):
        found.check(exact=False)
    compare(net, expected, moved(0.5 * MOST_DISTANCE), what="noise", runs_with="a test").check(exact=False)
    expected[name][:, 4] = 3
    compare(net, expected, {name: expected[name] * np.float32(1 + 1e-6)}, what="", runs_with="").check(exact=False)
    nothing = {name: np.zeros_like(expected[name])}
    compare(net, nothing, nothing, what="zeros", runs_with="a test").check(exact=True)


def test_each_of_several_labels_is_counted(certificate: Certificate) -> None:
    net = compared_as("multi-label", certificate)
    expected = outputs_of(net)
    (name,) = expected
    wrong = expected[name].copy()
    wrong[:7, 2] *= -1
    wrong[:7, 2] -= wrong[:7, 2] == 0
    found = compare(net, expected, {name: wrong}, what="noise", runs_with="a test")
    assert "7 of 500 labels differ" in str(found)
    found.check(exact=False)


def test_a_small_output_is_not_measured_by_a_large_one() -> None:
    net = OTHER_NETS["features"]()
    expected = outputs_of(net)
    small = min(expected, key=lambda name: float(np.abs(expected[name]).max()))
    expected[small] *= np.float32(1e-6)
    moved = expected | {small: -expected[small]}
    with pytest.raises(OnebitError, match="is not the packed net"):
        compare(net, expected, moved, what="noise", runs_with="a test").check(exact=False)


def test_logits_of_another_scale_differ_though_their_labels_do_not() -> None:
    net = sign_net()
    expected = outputs_of(net)
    for factor in (1.01, 1e-6, np.nan):
        moved = {name: values * np.float32(factor) for name, values in expected.items()}
        found = compare(net, expected, moved, what="noise", runs_with="a test")
        assert np.isnan(factor) or found.label_mismatches == 0
        with pytest.raises(OnebitError, match="is not the packed net"):
            found.check(exact=False)


def test_numbers_that_are_not_finite_differ() -> None:
    net = OTHER_NETS["features"]()
    expected = outputs_of(net)
    for wrong in (np.nan, np.inf):
        moved = changed(expected, lambda values, wrong=wrong: np.where(values > 0, np.float32(wrong), values))
        with pytest.raises(OnebitError):
            compare(net, expected, moved, what="noise", runs_with="a test").check(exact=False)


def test_pixels_are_counted() -> None:
    b = Builder((3, 4, 5))
    b.affine(3)
    net = b.net()
    expected = outputs_of(net, 7)
    found = compare(net, expected, changed(expected, np.negative), what="noise", runs_with="a test")
    assert found.labels == 7 * 4 * 5
    assert "of 140 pixels differ" in str(found)


@pytest.mark.parametrize(
    "change", [lambda v: v[:-1], lambda v: v[:, :-1], lambda v: v.astype(np.float64), lambda v: v[None]]
)
def test_other_shapes_and_dtypes_are_an_error(change: Callable[[np.ndarray], np.ndarray]) -> None:
    net = sign_net()
    expected = outputs_of(net)
    with pytest.raises(OnebitError, match=r"the exported net gives float\d\d \(.*, expected float32 \(100, 5\)"):
        compare(net, expected, changed(expected, change), what="noise", runs_with="a test")
    with pytest.raises(OnebitError, match="the exported net gives nothing for 'n17'"):
        compare(net, expected, {}, what="noise", runs_with="a test")


# ------------------------------------------------------------------------------------------------------------- writing
def test_a_file_target(target: Callable[..., ModuleType], tmp_path: Path) -> None:
    target("own", suffixes=(".own",), options={"form": ("a", "b")})
    made = export_net(sign_net(), "own", tmp_path / "net.own")
    assert made.files == (tmp_path / "net.own",)
    assert made.files[0].read_text() == "own {'form': 'a'}"
    assert made.size == len(made.files[0].read_bytes())
    assert made.comparison is not None
    assert made.comparison.bit_exact
    assert made.comparison.what == "20 random inputs"
    assert str(made).splitlines() == [f"{made.files[0]}: {made.size} B", str(made.comparison)]
    assert (
        export_net(sign_net(), "own", str(tmp_path / "net.own"), form="b").files[0].read_text() == "own {'form': 'b'}"
    )
    few = export_net(sign_net(), "own", tmp_path / "net.own", count=3).comparison
    assert few is not None
    assert few.what == "3 random inputs"
    given = export_net(sign_net(), "own", tmp_path / "net.own", inputs=inputs_of(sign_net(), 3)).comparison
    assert given is not None
    assert (given.samples, given.what) == (3, "3 inputs")


def test_a_large_net_is_compared_on_fewer_inputs(
    target: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target("own", suffixes=(".own",))
    macs = sum(row.macs for row in costs(sign_net()))
    for most, expected in ((30 * macs, 20), (7 * macs, 7), (macs // 2, 2)):
        monkeypatch.setattr("onebit.export.writing.MOST_MACS", most)
        made = export_net(sign_net(), "own", tmp_path / "net.own").comparison
        assert made is not None
        assert (made.samples, made.what) == (expected, f"{expected} random inputs")


def test_a_folder_target(target: Callable[..., ModuleType], tmp_path: Path) -> None:
    target("own")
    for _ in range(2):
        made = export_net(sign_net(), "own", tmp_path / "net")
        assert [str(file.relative_to(tmp_path)) for file in made.files] == ["net/net.txt", "net/src/more.txt"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["net"]


def test_a_folder_of_the_user_keeps_its_files(target: Callable[..., ModuleType], tmp_path: Path) -> None:
    target("own")
    (tmp_path / "src").mkdir()
    mine = tmp_path / "src" / "more.txt"
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"more\.txt is there already, and onebit has not written it"):
        export_net(sign_net(), "own", tmp_path)
    assert mine.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


@pytest.mark.parametrize("layout", ["make", "arduino"])
def test_each_file_of_a_folder_is_replaced_only_if_onebit_wrote_it(layout: str, tmp_path: Path) -> None:
    """A file of the user does not become one of onebit's by lying beside them."""
    for make in (sign_net, real_net):
        files = export_net(make(), "c", tmp_path / "net", layout=layout).files
    before = {file: file.read_bytes() for file in files}
    for file in files:
        file.write_text("mine")
        with pytest.raises(UsageError, match=rf"^\S*{file.name} is there already, and onebit has not written it"):
            export_net(sign_net(), "c", tmp_path / "net", layout=layout)
        assert file.read_text() == "mine"
        assert all(other == file or other.read_bytes() == text for other, text in before.items())
        file.write_bytes(before[file])


def test_what_no_target_takes(target: Callable[..., ModuleType], tmp_path: Path) -> None:
    target("own", suffixes=(".own",), options={"form": ("a", "b")})
    net, path = sign_net(), tmp_path / "net.own"
    with pytest.raises(UnknownNameError, match="unknown export target 'onw'; did you mean 'own'"):
        export_net(net, "onw", path)
    with pytest.raises(UnknownNameError, match="--form 'c'"):
        export_net(net, "own", path, form="c")
    with pytest.raises(UsageError, match="--fom does not go with --to own"):
        export_net(net, "own", path, fom="a")
    with pytest.raises(UsageError, match=r"must end in \.own"):
        export_net(net, "own", tmp_path / "net.onw")
    with pytest.raises(UsageError, match="--report does not go with --to own"):
        export_net(net, "own", path, report=True)
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_differs_or_fails_is_not_written(target: Callable[..., ModuleType], tmp_path: Path) -> None:
    module = target("own", suffixes=(".own",))

    def wrong(net: PackedNet, path: Path, inputs: np.ndarray) -> Outputs:
        return {name: -values for name, values in net.by_name(run(net, inputs)).items()}

    def broken(net: PackedNet, path: Path, inputs: np.ndarray) -> Outputs:
        raise RuntimeError("a fault of the target")

    for function, error in ((wrong, OnebitError), (broken, RuntimeError)):
        vars(module)["run"] = function
        with pytest.raises(error):
            export_net(real_net(), "own", tmp_path / "net.own")
        assert list(tmp_path.iterdir()) == []

    def missing(net: PackedNet, path: Path, inputs: np.ndarray) -> Outputs:
        raise CannotRun("node is not installed")

    vars(module)["run"] = missing
    made = export_net(real_net(), "own", tmp_path / "net.own")
    assert (made.comparison, made.not_compared) == (None, "node is not installed")
    assert made.files[0].exists()


def test_no_inputs_compare_nothing(target: Callable[..., ModuleType], tmp_path: Path) -> None:
    target("own", suffixes=(".own",))
    with pytest.raises(UsageError, match="got no inputs to compare with"):
        export_net(sign_net(), "own", tmp_path / "net.own", inputs=inputs_of(sign_net(), 0))
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_the_packed_net_refuses_are_its_error(target: Callable[..., ModuleType], tmp_path: Path) -> None:
    def broken(net: PackedNet, path: Path, inputs: np.ndarray) -> Outputs:
        raise RuntimeError("what the target says of them")

    vars(target("own", suffixes=(".own",)))["run"] = broken
    net = OTHER_NETS["tokens"]()
    with pytest.raises(UsageError, match="numbers of the inputs are NaN"):
        export_net(net, "own", tmp_path / "net.own", inputs=np.full((1, *net.input.shape), np.nan, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_file_beside_is_replaced_only_if_onebit_wrote_it(tmp_path: Path) -> None:
    program = tmp_path / "net.py"
    program.write_text("mine = 1\n")
    with pytest.raises(UsageError, match=r"net\.py is there already, and onebit has not written it"):
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
    with pytest.raises(OnebitError, match=r"net\.py is there already, and onebit has not written it"):
        export_net(sign_net(), "torch", tmp_path / "net.pth")
    assert (tmp_path / "net.pth").read_bytes() == before


def test_files_of_two_exports_are_not_mixed(tmp_path: Path) -> None:
    for first, second, left in (("make", "arduino", "net.c"), ("arduino", "make", "src/net.c")):
        folder = tmp_path / first
        export_net(sign_net(), "c", folder, layout=first)
        with pytest.raises(UsageError, match=rf"{left} is of another export"):
            export_net(real_net(), "c", folder, layout=second)
        export_net(real_net(), "c", folder, layout=first)
    export_net(sign_net(), "torch", tmp_path / "net.pt")
    before = (tmp_path / "net.py").read_bytes()
    with pytest.raises(UsageError, match=r"net\.pt is of another export"):
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


@pytest.mark.parametrize("to", ["html", "torch", "onnx", "c"])
def test_gray_images_need_no_axis_of_channels(to: str, tmp_path: Path) -> None:
    b = Builder((1, 6, 6))
    b.add(Flatten)
    b.add(Dense, **b.signs(3, 36))
    path = tmp_path / f"net{(*EXPORTS[to].suffixes, '')[0]}"
    made = export_net(b.net(), to, path, inputs=inputs_of(b.net(), 5)[:, 0])
    assert made.comparison is None or made.comparison.samples == 5


@pytest.mark.parametrize("layout", ["make", "arduino"])
def test_files_of_a_net_with_a_long_name_are_known_as_those_of_onebit(layout: str, tmp_path: Path) -> None:
    net = replace(sign_net(), name="\u7d50" * 90)
    for _ in range(2):
        export_net(net, "c", tmp_path, layout=layout)
