"""The target `torch`: programs without onebit that compute what the packed net does, for any net and any names."""

from __future__ import annotations

import ast
import keyword
import re
import resource
import runpy
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings, strategies as st
from torch import nn

from onebit.errors import OnebitError
from onebit.export import export_net
from onebit.export.plain_torch.body import MODULE_NAMES, all_parts, new_name
from onebit.export.plain_torch.program import Program
from onebit.packed import Certificate, Dense, PackedNet, Threshold, infer
from onebit.packed.bits import pack_signs
from onebit.runtime import run
from onebit.verification.inspection import inspect_file
from support.drawn_nets import batches_of, nets
from support.packed_nets import NETS, Builder, inputs_of, integer_resnet, make_packed_mlp, signs_conv, with_names
from support.recipe_nets import SMALL, packed_net

ALONE = """
import sys, runpy
sys.modules["onebit"] = None  # so that `import onebit` raises
try:
    import onebit
except ImportError:
    pass
else:
    sys.exit("onebit can be imported")
import numpy as np, torch
from pathlib import Path
for folder in map(Path, sys.argv[1:]):  # each with the two files of a net, and inputs
    (weights,) = (path for path in folder.glob("net.*") if path.suffix != ".py")
    net = runpy.run_path(str(folder / "net.py"))["load"](weights)
    with torch.inference_mode():
        made = net(torch.from_numpy(np.load(folder / "inputs.npy")))
    np.save(folder / "outputs.npy", made.numpy())
assert not any(name.startswith("onebit.") for name in sys.modules)
"""


def loaded(path: Path) -> Any:
    """The module that the program beside a weight file loads."""
    return runpy.run_path(str(path.with_suffix(".py")))["load"](path)


PROGRAMS = {
    "mlp of signs.safetensors": "mnist-bnn",  # integers, so that every bit is equal
    "resnet.safetensors": "cifar10-resnet20-binaryconnect",
    "unet.safetensors": "membrane-unet-ste",
    "mlp.pth": "mnist-binaryconnect",
}


def test_a_process_that_cannot_import_onebit_runs_the_programs(tmp_path: Path) -> None:
    folders, expected = {}, {}
    for name, recipe in PROGRAMS.items():
        folder = folders[name] = tmp_path / name
        folder.mkdir()
        net = packed_net(SMALL[recipe], 4)[1]
        export_net(net, "torch", (folder / "net").with_suffix(Path(name).suffix))
        inputs = inputs_of(net, 6, seed=3)
        np.save(folder / "inputs.npy", inputs)
        expected[name] = run(net, inputs)
    subprocess.run([sys.executable, "-c", ALONE, *map(str, folders.values())], check=True, timeout=120)
    for name, folder in folders.items():
        found, numbers = np.load(folder / "outputs.npy"), expected[name]
        assert found.dtype == np.float32
        if "signs" in name:
            np.testing.assert_array_equal(found, numbers)
            continue
        np.testing.assert_allclose(found, numbers, rtol=1e-3, atol=1e-3 * np.abs(numbers).max(), err_msg=name)
        if numbers.ndim == 2:
            np.testing.assert_array_equal(found.argmax(axis=1), numbers.argmax(axis=1))


def test_inputs_of_another_dtype_or_shape_are_an_error(tmp_path: Path) -> None:
    export_net(make_packed_mlp(shape=(3, 2, 2)), "torch", tmp_path / "net.safetensors")
    net = loaded(tmp_path / "net.safetensors")
    assert net(torch.zeros(0, 3, 2, 2, dtype=torch.uint8)).shape == (0, 10)
    with pytest.raises(TypeError, match="uint8"):
        net(torch.rand(5, 3, 2, 2))
    for shape in ((5, 2, 2, 3), (3, 2, 2), (5, 12), ()):
        with pytest.raises(ValueError, match="3, 2, 2"):
            net(torch.zeros(shape, dtype=torch.uint8))
    features = NETS["features"]()
    export_net(features, "torch", tmp_path / "floats.safetensors")
    with pytest.raises(TypeError, match="float32"):
        loaded(tmp_path / "floats.safetensors")(torch.zeros(2, *features.input.shape, dtype=torch.uint8))


def test_drawn_nets_give_what_the_reference_does(tmp_path: Path) -> None:
    @settings(max_examples=55, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data(), integers=st.booleans())
    def check(data: st.DataObject, integers: bool) -> None:
        net = data.draw(nets(integers=integers))
        inputs = data.draw(batches_of(net))
        if net.input.dtype == "float32":  # other magnitudes meet the grid of the packed net, which torch does not have
            inputs = inputs_of(net, len(inputs))
        path = tmp_path / f"{len([*tmp_path.iterdir()])}.safetensors"
        comparison = export_net(net, "torch", path, inputs=inputs).comparison
        assert comparison is not None
        if integers or all(value.exact for value in infer(net).values()):  # but for the sign of a 0: -1 times 0 is -0.0
            assert comparison.largest == 0

    check()


CASES = {**NETS, "integer resnet": integer_resnet}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, ".safetensors") for name in CASES), ("real", ".pth"), ("integer", ".pt")],
)
def test_nets_with_every_operation(name: str, suffix: str, tmp_path: Path) -> None:
    net = CASES[name]()
    made = export_net(net, "torch", tmp_path / f"net{suffix}", inputs=inputs_of(net, 30))
    assert made.comparison is not None
    assert made.comparison.bit_exact == (name in ("sign", "integer", "integer resnet"))  # integers, up to the affine
    assert {path.name for path in made.files} == {"net.py", f"net{suffix}"}
    program = (tmp_path / "net.py").read_text(encoding="utf-8")
    assert "onebit" not in program.split('"""', 2)[2]


def test_the_comparison_keeps_the_random_state_and_ignores_autocast(tmp_path: Path) -> None:
    net, before = NETS["sign"](0), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        comparison = export_net(net, "torch", tmp_path / "net.safetensors", inputs=inputs_of(net, 4)).comparison
    assert comparison is not None
    assert not comparison.label_mismatches
    assert torch.equal(torch.get_rng_state(), before)


def test_integers_beyond_those_of_float32_stay_exact(tmp_path: Path) -> None:
    b = Builder((783,))
    two = np.ones((2, 301), np.int8)
    two[1, 0] = -1  # the difference of two large odd numbers
    for signs in (np.ones((301, 783), np.int8), two, np.int8([[1, -1]])):
        b.add(Dense, signs=pack_signs(signs), in_features=signs.shape[1])
    net = b.net()
    inputs = inputs_of(net, 20) // 2 + 128
    expected = run(net, inputs)
    made = export_net(net, "torch", tmp_path / "net.safetensors", inputs=inputs)
    assert made.comparison is not None
    assert made.comparison.bit_exact
    text = made.files[0].read_text()
    assert "self.double()" in text
    assert loaded(made.files[1])(torch.from_numpy(inputs)).dtype == torch.float32
    # in float32, these inputs would be rounded
    narrow = text.replace("self.double()", "pass").replace("x.double()", "x.float()")
    made.files[0].write_text(narrow)
    with torch.inference_mode():
        assert not np.array_equal(loaded(made.files[1])(torch.from_numpy(inputs)).numpy(), expected)


def test_thresholds_beyond_the_integers_of_float32_stay_exact(tmp_path: Path) -> None:
    b = Builder((70_000,), coding="values")
    b.add(Dense, signs=pack_signs(np.ones((2, 70_000), np.int8)), in_features=70_000)
    b.add(Threshold, threshold=np.array([17_000_001, 5], np.int32), direction=np.ones(2, np.int8))
    net = b.net()
    inputs = np.full((2, 70_000), 242, np.uint8)
    for row, total in zip(inputs, (17_000_000, 17_000_001), strict=True):
        row[: total - 242 * 70_000] += 1
    made = export_net(net, "torch", tmp_path / "net.safetensors", inputs=inputs)
    assert made.comparison is not None
    assert made.comparison.bit_exact
    assert loaded(made.files[1])(torch.from_numpy(inputs)).tolist() == run(net, inputs).tolist() == [[-1, 1], [1, 1]]


NASTY = [
    *("class", "None", "self", "x", "torch", "F", "nn", "np", "Net", "forward", "sign", "Affine", "Threshold", "sums"),
    *("Requantize", "quantize", "multiplier", "offset", "n1.multiplier"),
    *("total", "parts", "coded", "load", "main", "CLASSES", "print", "len", "float", "state_dict", "training", "type"),
    *("a.b", "a_b", "a-b", "a_b_2", "1", "0.1.0", "_", "__", "__init__", "__class__", "_modules", "_parameters", "l"),
    *("conv1", "conv1_scale", "conv1_center", "input_mean", "input_std", "match", "T_destination", "average_pool"),
    *("n" * 100, "n" * 99 + "m", "n" * 40, "9" * 100, "Path.with_suffix", "sys.exit-1", "F.relu", "tuple"),
]


names = st.sampled_from(NASTY) | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", fullmatch=True)


texts = st.sampled_from(
    [
        *('"', "'", '"""', "\\", "\\\\", 'x"', '\\"', "{x}", "{", "%s", "\\N{BULLET}", "\\x41", "漢字" * 90, "é", "#"),
        *('" + __import__("os")', "'" * 200, '"' * 199 + "'", " ", "  two", "two  ", "\\n"),
    ]
) | st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=200)


@st.composite
def renamed(draw: Any) -> tuple[PackedNet, PackedNet]:
    """A net with any names of nodes, outputs, classes, net and meaning, and the same net with usual names."""
    net = draw(nets())

    def drawn(texts: st.SearchStrategy[str], count: int) -> list[str]:
        found: list[str] = draw(st.lists(texts, min_size=count, max_size=count, unique=True))
        return found

    made = with_names(net, drawn(names.filter(lambda name: name != "input"), len(net.nodes)))
    if isinstance(made.output, dict):
        keys = drawn(texts, len(made.output))
        made = replace(made, output=dict(zip(keys, made.output.values(), strict=True)))
    shape = infer(net)[net.output].shape if isinstance(net.output, str) else ()
    classes = tuple(drawn(texts, shape[0])) if shape and draw(st.booleans()) else None
    spec = replace(net.input, meaning=draw(texts))
    return replace(made, inputs={"input": spec}, classes=classes, name=draw(texts)), net


def test_names_of_any_kind_are_text_and_never_code(tmp_path: Path) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn=renamed())
    def check(drawn: tuple[PackedNet, PackedNet]) -> None:
        net, usual = drawn
        path = tmp_path / f"{len([*tmp_path.iterdir()])}.safetensors"
        try:
            made = export_net(net, "torch", path)
        except OnebitError as error:  # a net that enlarges rounding, with usual names as well
            with pytest.raises(OnebitError, match=re.escape(str(error))):
                export_net(usual, "torch", path)
            reject()
        assert made.comparison is not None
        text = made.files[0].read_text(encoding="utf-8")
        assert called(ast.parse(text)) <= {*ALLOWED.split(), *all_parts(), *IN_PARTS}
        module = runpy.run_path(str(made.files[0]))
        if net.classes:
            assert module["CLASSES"] == list(net.classes)
        answer = module["load"](path)(torch.from_numpy(inputs_of(net, 2)))
        assert type(answer) is (torch.Tensor if isinstance(net.output, str) else type(net.output))
        if isinstance(net.output, dict):
            assert list(answer) == list(net.output)

    check()


ALLOWED = "super print net len tuple TypeError ValueError load main Net Path"
"""What programs call, besides their parts."""


def called(tree: ast.AST) -> set[str]:
    """Names of functions and classes that a program calls."""
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


IN_PARTS = {name for text in all_parts().values() for name in called(ast.parse(text))}


@given(st.lists(names, max_size=30, unique=True))
def test_names_are_different_identifiers(texts: list[str]) -> None:
    taken = {*MODULE_NAMES.split()}
    made = [new_name(text, taken) for text in texts]
    assert len({*made}) == len(made)
    for name in made:
        assert name.isidentifier()
        assert not keyword.iskeyword(name)
        assert name[0] in string.ascii_letters
        assert len(name) <= 44


def test_layers_do_not_hide_attributes_of_modules() -> None:
    assert {name for name in dir(nn.Module()) if not name.startswith("_")} <= set(MODULE_NAMES.split())


def test_inspect_finds_the_weights_binary(tmp_path: Path) -> None:
    net = signs_conv()
    path = tmp_path / "net.safetensors"
    export_net(net, "torch", path)
    found = inspect_file(path)
    assert found.verdict == "binary"
    assert [layer.name for layer in found.layers] == [
        f"{node.output}.weight" for node in net.nodes if node.binary_weights
    ]
    assert sum(layer.minus_one + layer.plus_one for layer in found.layers) == found.total["binary_weights"]
    assert found.total["binary_weights"] == sum(node.binary_weights for node in net.nodes)


def test_a_program_prints_its_weights_and_the_classes_of_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = replace(NETS["sign"](), classes=("zero", "one", "two", "three", "fünf"))
    export_net(net, "torch", tmp_path / "net.pth")
    inputs = inputs_of(net, 130)
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "others.npy", inputs[:, :, :2])
    (tmp_path / "text.npy").write_text("hello")
    monkeypatch.chdir(tmp_path)

    def printed(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["net.py", *arguments])
        runpy.run_path("net.py", run_name="__main__")
        return capsys.readouterr().out.splitlines()

    lines = printed()
    assert "n0.weight: (6, 3, 3, 3), 2 values" in lines
    assert "n2.threshold: (6, 1, 1), 6 values" in lines
    assert printed("inputs.npy") == [net.classes[label] for label in run(net, inputs).argmax(axis=1)]  # type: ignore[index]
    for name in ("nothing.npy", "others.npy", "text.npy"):
        with pytest.raises(SystemExit, match=rf"{name}: [^\n]+$"):
            printed(name)


@pytest.mark.parametrize("compared", ["labels", "multi-label", "values"])
def test_a_net_of_values_or_of_several_labels_prints_no_class(compared: str, certificate: Certificate) -> None:
    net = replace(NETS["sign"](), classes=tuple("abcde"))
    net = replace(net, certificate=replace(certificate, compared=compared, layers=()))
    program = Program(net, suffix=".pth").text()
    assert ("CLASSES[label]" in program) == (compared == "labels")


def test_without_torch_it_writes_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETS["real"]()
    export_net(net, "torch", tmp_path / "net.safetensors")
    before = (tmp_path / "net.safetensors").read_bytes()
    monkeypatch.setitem(sys.modules, "torch", None)
    made = export_net(net, "torch", tmp_path / "net.safetensors")
    assert (made.comparison, "torch" in made.not_compared) == (None, True)
    assert (tmp_path / "net.safetensors").read_bytes() == before
    with pytest.raises(ImportError, match="torch"):
        export_net(net, "torch", tmp_path / "other.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_does_not_fit_is_not_written(suffix: str, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OnebitError, match="too large"):
            export_net(make_packed_mlp((784, 70, 10)), "torch", tmp_path / f"net{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
