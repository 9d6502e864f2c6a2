"""GGUF and ONNX files are binary if their weights take two values ±d, in blocks, rows or channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onebit
from onebit.__main__ import main
from onebit.errors import OnebitError
from onebit.export import export_net
from onebit.verification.foreign_files import inspect_foreign
from support.hostile_runs import bounded
from support.packed_nets import make_packed_mlp
from support.stand_in_models import Groups, language_model

gguf = pytest.importorskip("gguf")


def test_a_language_model_is_mixed_and_its_binary_tensors_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.gguf"
    onebit.export_gguf(language_model(quantizer=Groups), path, card={"data": "poems"})
    found = inspect_foreign(path)
    kinds = {layer.name: (layer.verdict == "binary", layer.dtype, layer.bits) for layer in found.layers}
    assert kinds["blk.0.attn_q.weight"] == (True, "Q1_0", 1.125)
    assert kinds["token_embd.weight"] == (False, "Q8_0", 8.5)
    assert found.verdict == "mixed"
    assert found.total["binary_weights"] == 229_376
    assert found.total["bits_per_weight"] == 8 * path.stat().st_size / found.total["weights"]
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "229,376 of" in text
    assert "poems" in text
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["architecture"] == "llama"


def written(path: Path, **tensors: tuple[np.ndarray, str]) -> dict[str, Any]:
    """The reports of a GGUF file of these tensors by name."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, (values, kind) in tensors.items():
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, values if kind == "Q1_0" else gguf.quantize(values, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {layer.name: layer for layer in inspect_foreign(path).layers}


def test_dense_tensors_of_two_values_a_block_or_a_row_are_binary(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (4, 256)).astype(np.float32)
    blocks = signs * np.repeat(rng.uniform(0.01, 2, (4, 2)).astype(np.float16).astype(np.float32), 128, axis=1)
    rows = signs[:, :96] * np.arange(1, 5, dtype=np.float32)[:, None]
    zero, other = blocks.copy(), blocks.copy()
    zero[0, :128] = 0
    other[0, 0] *= 1.5
    cases = {"blocks": blocks, "rows": rows, "zero": zero, "other": other}
    found = written(tmp_path / "x.gguf", **{name: (x, "F16") for name, x in cases.items()}, eight=(blocks, "Q8_0"))
    binary = {name for name, layer in found.items() if layer.verdict == "binary"}
    assert binary == {"blocks", "rows", "eight"}


def test_blocks_are_counted_as_their_values_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scale = np.array([[1, 0.25], [2, 1]], np.float16)
    signs = rng.choice([-1, 1], (2, 256))
    values = (signs * np.repeat(scale, 128, axis=1)).astype(np.float32)
    blocks = onebit.packed.gguf_file.pack_q1_0(signs, scale)
    scale[0, 0] = 0
    zero = onebit.packed.gguf_file.pack_q1_0(signs, scale)
    found = written(tmp_path / "x.gguf", one=(blocks, "Q1_0"), dense=(values, "F32"), zero=(zero, "Q1_0"))
    fields = ("shape", "low", "high", "minus_one", "plus_one", "between", "outside", "not_numbers", "distance")
    assert [getattr(found["one"], name) for name in fields] == [getattr(found["dense"], name) for name in fields]
    assert found["one"].verdict == "binary"
    assert found["zero"].verdict == "real"


# ---------------------------------------------------------------------------------------------------------------- ONNX
@pytest.mark.parametrize(("flavor", "bits"), [("standard", 1), ("float", 32), ("qonnx", 32)])
def test_an_exported_net_is_binary(tmp_path: Path, flavor: str, bits: int) -> None:
    net = make_packed_mlp((12, 24, 10), form="sign")
    path = tmp_path / "x.onnx"
    export_net(net, "onnx", path, flavor=flavor)
    found = inspect_foreign(path)
    assert found.verdict == "binary"
    assert sorted((layer.shape, layer.bits) for layer in found.layers) == [((10, 24), bits), ((24, 12), bits)]
    assert found.total["binary_weights"] == found.total["weights"] == 12 * 24 + 24 * 10
    assert found.facts["producer"].startswith("onebit")
    expected = np.concatenate([node.rows.reshape(-1) for node in net.nodes if hasattr(node, "rows")])
    assert sum(layer.plus_one for layer in found.layers) == (expected == 1).sum()


def test_shipped_nets_are_as_binary_as_onnx_files(tmp_path: Path) -> None:
    for name in onebit.nets.net_names():
        export_net(name, "onnx", tmp_path / "x.onnx", count=2)
        shipped = onebit.load(name)
        found = inspect_foreign(tmp_path / "x.onnx")
        binary = [layer for layer in found.layers if layer.verdict == "binary" and "/ones" not in layer.name]
        expected = sum(node.binary_weights for node in shipped.nodes)
        assert sum(np.prod(layer.shape) for layer in binary) == expected, name
        assert {layer.bits for layer in binary} == {1}


def onnx_file(path: Path, nodes: list[Any], **constants: np.ndarray) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)), path)
    return path


def test_channels_are_the_outputs_of_each_operation(tmp_path: Path) -> None:
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (4, 6)).astype(np.float32)
    scaled = signs * np.arange(1, 5, dtype=np.float32)[:, None]
    node = helper.make_node
    for made, weight in (
        (node("MatMul", ["x", "w"], ["y"]), scaled.T),
        (node("Gemm", ["x", "w"], ["y"]), scaled.T),
        (node("Gemm", ["x", "w"], ["y"], transB=1), scaled),
        (node("Conv", ["x", "w"], ["y"]), scaled.reshape(4, 6, 1, 1)),
        (node("ConvTranspose", ["x", "w"], ["y"]), scaled.T.reshape(6, 4, 1, 1)),
    ):
        assert inspect_foreign(onnx_file(tmp_path / "x.onnx", [made], w=weight)).verdict == "binary"
        other = weight.copy()
        other.flat[0] += 0.5
        assert inspect_foreign(onnx_file(tmp_path / "x.onnx", [made], w=other)).verdict == "real"
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    both = inspect_foreign(
        onnx_file(tmp_path / "x.onnx", nodes, w=signs, v=np.arange(36, dtype=np.float32).reshape(6, 6))
    )
    assert both.verdict == "mixed"


def test_files_that_compute_far_more_than_they_store_are_not_followed(tmp_path: Path) -> None:
    """Each Gather takes eight rows for each number of the one before it."""
    node, table = helper.make_node, np.ones((256, 8), np.uint8)
    steps = [node("Gather", ["table", f"t{n}"], [f"t{n + 1}"]) for n in range(12)]
    nodes = [*steps, node("MatMul", ["x", "t12"], ["y"])]
    with bounded():
        found = inspect_foreign(onnx_file(tmp_path / "x.onnx", nodes, table=table, t0=np.zeros(8, np.uint8)))
    assert (found.verdict, found.layers, "t12" in found.warnings[0]) == ("mixed", (), True)
    again = [node("MatMul", ["x", "w"], ["y"])] * 5000
    with bounded():
        found = inspect_foreign(onnx_file(tmp_path / "x.onnx", again, w=np.ones((600, 600), np.float32)))
    assert len(found.layers) == 1


def test_weights_of_every_operation_are_found(tmp_path: Path) -> None:
    node, real = helper.make_node, np.arange(24, dtype=np.float32).reshape(4, 6)
    for made, name in (
        (node("Gather", ["real", "x"], ["y"]), "an embedding"),
        (node("Add", ["x", "real"], ["y"]), "positions"),
        (node("LSTM", ["x", "w", "real"], ["y"]), "recurrent"),
        (node("MatMul", ["real", "x"], ["y"]), "from the left"),
    ):
        path = onnx_file(
            tmp_path / "x.onnx", [made, node("MatMul", ["x", "w"], ["z"])], real=real, w=np.ones_like(real)
        )
        assert inspect_foreign(path).verdict == "mixed", name


def test_weights_by_other_operations_are_read_or_named(tmp_path: Path) -> None:
    node, codes = helper.make_node, np.random.default_rng(0).choice([-1, 1], (6, 4)).astype(np.int8)
    scale, stored = np.arange(1, 5, dtype=np.float32), numpy_helper.from_array(codes.astype(np.float32), "c")
    read = {
        "channels": node("DequantizeLinear", ["w", "scale"], ["v"], axis=1),
        "whole": node("DequantizeLinear", ["w", "one", "zero"], ["v"]),
        "constant": node("Constant", [], ["v"], value=stored),
        "turned": node("Transpose", ["turned"], ["v"], perm=[1, 0]),
        "cast": node("Cast", ["w"], ["v"], to=TensorProto.FLOAT),
    }
    product = node("MatMul", ["x", "v"], ["y"])
    others = {"one": np.ones((), np.float32), "zero": np.zeros((), np.int8), "turned": codes.T.copy()}
    for name, made in read.items():
        path = onnx_file(tmp_path / "x.onnx", [made, product], w=codes, scale=scale, **others)
        found = inspect_foreign(path)
        assert (found.verdict, [layer.shape for layer in found.layers]) == ("binary", [(4, 6)]), name
    path = onnx_file(
        tmp_path / "x.onnx", [node("Tanh", ["w"], ["v"]), product, node("MatMul", ["x", "w"], ["z"])], w=codes
    )
    found = inspect_foreign(path)
    assert found.verdict == "mixed"
    assert "v" in found.warnings[0]
    inner = helper.make_graph([node("Identity", ["w"], ["v"])], "g", [], [helper.make_tensor_value_info("v", 1, None)])
    for name, nodes in {
        "other product": [node("Neg", ["real"], ["v"]), node("Einsum", ["x", "v"], ["y"], equation="ij,jk->ik")],
        "graph inside": [node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)],
    }.items():
        path = onnx_file(tmp_path / "x.onnx", [*nodes, node("MatMul", ["x", "w"], ["z"])], w=codes, real=codes * 0.1)
        found = inspect_foreign(path)
        assert (found.verdict, len(found.warnings)) == ("mixed", 1), name
    attention = inspect_foreign(
        onnx_file(tmp_path / "x.onnx", [node("MatMul", ["x", "x"], ["h"]), node("MatMul", ["h", "w"], ["y"])], w=codes)
    )
    assert (attention.verdict, attention.warnings) == ("binary", ())


def test_other_files_that_a_file_names_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(bytes(64))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    for constants, nodes in (
        ([tensor], []),
        ([], [helper.make_node("Constant", [], ["w"], value=tensor)]),
    ):
        graph = helper.make_graph([*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [], [], constants)
        Path("x.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        with pytest.raises(OnebitError, match="another file"):
            inspect_foreign(Path("x.onnx"))


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.gguf", "x.onnx", "none.gguf"):
        (tmp_path / "x.gguf").write_bytes(b"")
        (tmp_path / "x.onnx").write_bytes(b"\xff" * 9)
        with pytest.raises(OnebitError, match=name):
            inspect_foreign(tmp_path / name)
        assert main(["inspect", str(tmp_path / name)]) == 2
    assert main(["inspect", str(tmp_path / "x.gguf"), "--plot", "x.png"]) == 2
