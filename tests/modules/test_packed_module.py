"""A packed net in torch programs gives the bits of `run`, also when compiled or exported."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onebit.modules.packed_module
from onebit.errors import UsageError
from onebit.modules.packed_module import PackedModule
from onebit.packed import PackedNet, dumps
from onebit.runtime import run
from support.covering import covering
from support.packed_modules import (
    FORMS,
    RUN_OUTPUTS,
    RUN_PACKED,
    SEVERAL,
    TORCHS_OWN,
    assert_runs,
    images_of,
    make,
    readings,
)
from support.packed_nets import NETS, NETS_OF_OTHER_INPUTS, Builder, make_packed_mlp, with_names

__all__ = ["readings"]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_those_of_run(
    form: str, native: bool, monkeypatch: pytest.MonkeyPatch, readings: list[bytes]
) -> None:
    monkeypatch.delenv("ONEBIT_NATIVE", raising=False)
    net = make(form)
    expected = run(net, images_of(net).numpy())
    if not native:
        monkeypatch.setenv("ONEBIT_NATIVE", "0")
        monkeypatch.setattr("onebit.native.NativePlan.run", None)
    module = PackedModule(net)
    made, expected = net.by_name(module(images_of(net))), net.by_name(expected)
    assert made.keys() == expected.keys()
    for name, logits in made.items():
        np.testing.assert_array_equal(logits.numpy(), expected[name])
    with torch.inference_mode():
        assert_runs(module, net, counts=(0, 1, 2, 7))
    assert len(readings) == 1


def test_images_may_have_any_layout_and_gray_ones_need_no_channel() -> None:
    net = NETS["real"](0)
    images = images_of(net)
    expected = PackedModule(net)(images)
    for other in (images.to(memory_format=torch.channels_last), images.flip(0).flip(0), images.mT.contiguous().mT):
        for count in (1, 5):
            torch.testing.assert_close(PackedModule(net)(other[:count]), expected[:count], rtol=0, atol=0)
    grey = make_packed_mlp((12, 5), shape=(1, 3, 4))
    assert_runs(lambda images: PackedModule(grey)(images[:, 0]), grey, counts=(1, 3))


def test_a_batch_is_shared_by_the_threads_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_packed_mlp((12, 5))
    module, threads = PackedModule(net), []

    def noted(net: PackedNet, *args: Any) -> Any:
        threads.append(args[-1])
        return shared(net, *args)

    shared = onebit.runtime.running._native_parts
    monkeypatch.setattr(onebit.runtime.running, "_native_parts", noted)
    monkeypatch.delenv("ONEBIT_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_runs(module, net)
        monkeypatch.setattr("onebit.runtime.running._THREAD_WORK", 1)
        assert_runs(module, net)
        monkeypatch.setenv("ONEBIT_THREADS", "2")
        assert_runs(module, net)
    finally:
        torch.set_num_threads(before)
    assert [one for one in threads if one is not None] == [3, 3, 2]


@TORCHS_OWN
def test_the_operators_pass_the_checks_of_torch() -> None:
    net = make("mixed")
    module = PackedModule(net)
    found = torch.library.opcheck(RUN_PACKED, (images_of(net), module.file, [*module.signature.shapes[0]]))
    assert set(found.values()) == {"SUCCESS"}
    net = make("features")
    module = PackedModule(net)
    shapes = module.signature.shapes
    sizes, ranks = [size for shape in shapes for size in shape], [*map(len, shapes)]
    found = torch.library.opcheck(RUN_OUTPUTS, ([images_of(net)], module.file, sizes, ranks))
    assert set(found.values()) == {"SUCCESS"}
    outputs = RUN_OUTPUTS([images_of(net)], module.file, sizes, ranks)
    assert len({tensor.untyped_storage().data_ptr() for tensor in outputs}) == len(net.outputs)
    with pytest.raises(UsageError, match="outputs"):
        RUN_OUTPUTS([images_of(net)], module.file, [*sizes, 1], ranks[:-1])
    with pytest.raises(UsageError, match="packed"):
        RUN_PACKED(images_of(net), module.file, [3])


@TORCHS_OWN
@pytest.mark.parametrize(("form", "compiled"), covering(product(NETS_OF_OTHER_INPUTS, [True, False])))
def test_nets_of_any_input_compile_and_export(form: str, compiled: bool, tmp_path: Path) -> None:
    net = make(form)
    if compiled:
        torch.compiler.reset()
        assert_runs(torch.compile(PackedModule(net), fullgraph=True, backend="aot_eager"), net, counts=(5, 2, 1))
        return
    batch = torch.export.Dim("batch")
    program = torch.export.export(PackedModule(net), (images_of(net),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    assert_runs(torch.export.load(tmp_path / "net.pt2").module(), net, counts=(5, 2))


def test_a_net_of_another_input_or_other_outputs_is_not_loaded() -> None:
    def one(dtype: str, output: Any = None) -> PackedNet:
        b = Builder((4,), coding="float32" if dtype == "float32" else "values")
        b.affine(4)
        return b.net(output)

    module = PackedModule(one("float32"))
    with pytest.raises(RuntimeError, match="uint8"):
        module.load_state_dict(PackedModule(one("uint8")).state_dict())
    with pytest.raises(RuntimeError, match="order"):
        module.load_state_dict(PackedModule(one("float32", ("n0",))).state_dict())
    with pytest.raises(RuntimeError, match="order"):
        PackedModule(one("float32", {"a": "n0"})).load_state_dict(
            PackedModule(one("float32", {"b": "n0"})).state_dict()
        )
    for form in SEVERAL:  # other names of values are fine
        net = make(form)
        renamed = with_names(net, [f"x{index}" for index in range(len(net.nodes))])
        module = PackedModule(net)
        module.load_state_dict(PackedModule(renamed).state_dict())
        assert_runs(module, renamed)
        assert_runs(copy.deepcopy(module), renamed)


def test_wrong_inputs_are_refused() -> None:
    net = make("features")
    module = PackedModule(net)
    with pytest.raises(UsageError, match="float64"):
        module(images_of(net).double())
    for count in (1, 5):
        batch = images_of(net, count)
        batch[0, 3] = torch.nan
        with pytest.raises(UsageError, match="infinite"):
            module(batch)


COMPILED = [("eager", None), ("aot_eager", True), pytest.param("inductor", False, marks=pytest.mark.nightly)]


@TORCHS_OWN
@pytest.mark.parametrize(("backend", "dynamic"), COMPILED)
def test_the_module_compiles_without_a_break(backend: str, dynamic: bool | None) -> None:
    torch.compiler.reset()
    net = make("images real")
    compiled = torch.compile(PackedModule(net), fullgraph=True, backend=backend, dynamic=dynamic)
    assert_runs(compiled, net, counts=(5, 3, 1, 2))


@TORCHS_OWN
def test_a_compiled_module_sees_a_changed_net() -> None:
    torch.compiler.reset()
    module = PackedModule(make_packed_mlp((12, 5), seed=0))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_runs(compiled, module.net)
    other = make_packed_mlp((12, 5), seed=1)
    module.load_state_dict(PackedModule(other).state_dict())
    assert_runs(compiled, other)


@TORCHS_OWN
def test_an_exported_program_takes_any_batch_and_contains_one_bit_weights(tmp_path: Path) -> None:
    net = make_packed_mlp((784, 300, 10), form="sign")
    batch = torch.export.Dim("batch")
    program = torch.export.export(PackedModule(net), (images_of(net),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    assert (tmp_path / "net.pt2").stat().st_size < len(dumps(net)) + 20_000 < 784 * 300
    program = torch.export.load(tmp_path / "net.pt2")
    assert list(program.state_dict) == ["file"]
    assert_runs(program.module(), net, counts=(5, 1, 2, 0))
