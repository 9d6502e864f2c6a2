"""The bytes of a packed net in a module: copied, changed in place, freed, damaged."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import onebit.modules.packed_module
from onebit.data.decoding import default_workers
from onebit.errors import FormatError, UsageError
from onebit.modules.packed_module import PackedModule
from onebit.packed import dumps, save
from onebit.runtime import run
from support.packed_modules import RUN_PACKED, TORCHS_OWN, assert_runs, images_of, readings
from support.packed_nets import Builder, make_packed_mlp

__all__ = ["readings"]


def test_the_state_dict_is_the_file(tmp_path: Path) -> None:
    net = make_packed_mlp((12, 70, 5), form="mixed")
    save(net, tmp_path / "net.1bit")
    module = torch.nn.ModuleDict({"inner": PackedModule(tmp_path / "net.1bit")})
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert list(state) == ["inner.file"]
    assert state["inner.file"].numpy().tobytes() == (tmp_path / "net.1bit").read_bytes()
    for assign in (False, True):
        other = replace(make_packed_mlp((12, 5), seed=1), name="of a longer name, and of another depth")
        target = torch.nn.ModuleDict({"inner": PackedModule(other)})
        target.load_state_dict(state, assign=assign)
        assert_runs(target["inner"], net)
        assert target["inner"].net.name == net.name


def test_another_net_is_not_loaded() -> None:
    net = make_packed_mlp((12, 5))
    module = PackedModule(net)
    others = [PackedModule(make_packed_mlp(widths)).file for widths in ((12, 4), (13, 5))]
    for state in ({}, *({"file": given} for given in (*others, torch.zeros(9), torch.zeros(900, dtype=torch.uint8)))):
        with pytest.raises(RuntimeError, match="file"):
            module.load_state_dict(state)
    assert_runs(module, net)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save", "other process"])
def test_a_copy_runs_and_is_independent(copied: str) -> None:
    net, other = make_packed_mlp((12, 5), seed=0), make_packed_mlp((12, 5), seed=1)
    module = PackedModule(net)
    if copied == "torch.save":
        stream = io.BytesIO()
        torch.save(module, stream)
        stream.seek(0)
        twin = torch.load(stream, weights_only=False)
    elif copied == "other process":  # shares the memory, so a change on one side is a change on both
        twin = ForkingPickler.loads(ForkingPickler.dumps(module))
        assert twin.file.is_shared()
        assert_runs(twin, net)
    else:
        twin = copy.deepcopy(module) if copied == "deepcopy" else pickle.loads(pickle.dumps(module))
    assert repr(twin) == repr(module) == f"PackedModule(uint8 (1, 1, 12) -> ((5,),), {len(dumps(net)):,} bytes)"
    module.load_state_dict(PackedModule(other).state_dict())
    assert_runs(module, other)
    assert_runs(twin, other if copied == "other process" else net)


@TORCHS_OWN
def test_workers_of_a_loader_run_it() -> None:
    net = make_packed_mlp((12, 5))
    module = PackedModule(net)
    assert_runs(module, net)  # workers start with the net that was read here

    def loaded(images: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = {"collate_fn": lambda some: module(torch.stack(some))}
        return torch.cat(list(DataLoader(images, batch_size=2, num_workers=min(2, default_workers()), **options)))

    assert_runs(loaded, net)


CHANGES: dict[str, Callable[[PackedModule, torch.Tensor], Any]] = {
    "copy_": lambda module, given: module.file.copy_(given),
    "a view": lambda module, given: module.file[:].copy_(given),
    "detach": lambda module, given: module.file.detach().copy_(given),
    "data": lambda module, given: module.file.data.copy_(given),
    "numpy": lambda module, given: np.copyto(module.file.numpy(), given.numpy()),
    "swapped": lambda module, given: setattr(module.file, "data", given.clone()),
    "assigned": lambda module, given: setattr(module, "file", given.clone()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("inference", [False, True])
def test_a_net_that_is_changed_in_place_is_read_again(change: str, inference: bool, readings: list[bytes]) -> None:
    nets = [make_packed_mlp((12, 70, 5), seed=seed) for seed in range(2)]
    with torch.inference_mode(inference):
        module, *files = [PackedModule(nets[0]), *(PackedModule(net).file for net in nets)]
        assert len(files[0]) == len(files[1])
        for step in (0, 0, 1, 1, 0):
            CHANGES[change](module, files[step])
            assert_runs(module, nets[step], counts=(2, 1))
    assert len(readings) == (5 if change in ("swapped", "assigned") else 3)  # the same bytes are not read again


@pytest.mark.parametrize("how", ["counted", "inference", "shared", "alias"])
def test_a_change_of_the_last_weight_of_a_large_file_is_seen(how: str) -> None:
    net = make_packed_mlp((784, 800, 5), form="sign")
    with torch.inference_mode(how == "inference"):
        module = PackedModule(net)
        assert module.file.numel() > onebit.modules.packed_module._COMPARED
        if how == "shared":
            module = ForkingPickler.loads(ForkingPickler.dumps(module))
        assert_runs(module, net)
        file = module.file.data if how == "alias" else module.file
        last = net.nodes[-2]
        signs = last.signs.copy()
        signs[-1, -1] ^= 1
        changed = replace(net, nodes=(*net.nodes[:-2], replace(last, signs=signs), net.nodes[-1]))
        assert (run(changed, images_of(net).numpy()) != run(net, images_of(net).numpy())).any()
        call = (lambda images: RUN_PACKED(images, file, [5])) if how == "alias" else module
        whole = torch.frombuffer(bytearray(dumps(changed)), dtype=torch.uint8)
        bit = file.clone()
        bit[-50] ^= 1
        for given in (bit, whole):
            if how in ("shared", "alias"):  # torch counts nothing
                np.copyto(file.numpy(), given.numpy())
            else:
                file.copy_(given)
            if given is bit:
                with pytest.raises(FormatError, match="changed"):
                    call(images_of(net))
            else:
                assert_runs(call, changed)


def test_altered_bits_are_refused_everywhere(tmp_path: Path) -> None:
    net, rng = make_packed_mlp((12, 70, 5), form="mixed"), random.Random(0)
    good, images = dumps(net), images_of(net)
    for bit in (rng.randrange(8 * len(good)) for _ in range(20)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / "net.1bit").write_bytes(data)
        with pytest.raises(FormatError):
            PackedModule(tmp_path / "net.1bit")
        module, given = PackedModule(net), torch.frombuffer(data, dtype=torch.uint8)
        with pytest.raises(RuntimeError, match="file: "):
            module.load_state_dict({"file": given})
        module.file = given
        with pytest.raises(FormatError):
            module(images)


USES: dict[str, Callable[[PackedModule, Path], Any]] = {
    "called": lambda module, _: module,
    "copied": lambda module, _: copy.deepcopy(module),
    "compiled": lambda module, _: torch.compile(module, fullgraph=True, backend="aot_eager"),
    "exported": lambda module, folder: exported(module, folder / "net.pt2"),
    "inference": lambda module, _: torch.inference_mode()(module),
}


def exported(module: PackedModule, path: Path) -> torch.nn.Module:
    torch.export.save(torch.export.export(module, (torch.zeros(5, 1, 1, 12, dtype=torch.uint8),)), path)
    return torch.export.load(path).module()


@pytest.fixture
def quick_collector() -> Iterator[None]:
    """The garbage collector looks only through what is made from here on."""
    gc.freeze()
    yield
    gc.unfreeze()


@TORCHS_OWN
@pytest.mark.usefixtures("quick_collector")
@pytest.mark.parametrize("use", USES)
def test_a_deleted_module_frees_its_net(use: str, tmp_path: Path) -> None:
    torch.compiler.reset()
    net = make_packed_mlp((12, 5))
    module = PackedModule(net)
    call = USES[use](module, tmp_path)
    for one in (module, call):
        if callable(one):
            assert_runs(one, net)
    plan = onebit.modules.packed_module._read(module.file).plan
    kept = [weakref.ref(one) for one in (module.file.untyped_storage(), module.net, plan)]
    del plan
    before = len(onebit.modules.packed_module._READ)
    del module, call, one
    torch.compiler.reset()
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    assert len(onebit.modules.packed_module._READ) < before


@pytest.mark.usefixtures("quick_collector")
def test_a_replaced_net_is_freed() -> None:
    module = PackedModule(make_packed_mlp((12, 5), seed=0))
    for change in (CHANGES["copy_"], CHANGES["assigned"], CHANGES["swapped"]):
        for seed in (1, 0):
            old = weakref.ref(module.net)
            change(module, PackedModule(make_packed_mlp((12, 5), seed=seed)).file)
            assert_runs(module, module.net)
            gc.collect()
            assert old() is None


def test_a_strided_file_is_read() -> None:
    net = make_packed_mlp((12, 5))
    file = torch.stack([PackedModule(net).file] * 2, 1)[:, 0]
    for _ in range(2):
        assert_runs(lambda images: RUN_PACKED(images, file.detach(), (5,)), net)


def test_other_devices_are_refused() -> None:
    net = make_packed_mlp((12, 5))
    module, images = PackedModule(net), images_of(net)
    # as the operator on a GPU
    with pytest.raises(TypeError, match="meta"):
        onebit.modules.packed_module._run_packed_outputs([images.to("meta")], module.file, [5], [1])
    with pytest.raises(UsageError, match="meta"):
        onebit.modules.packed_module._run_packed_outputs([images], module.file.to("meta"), [5], [1])
    module.to("meta")
    with pytest.raises(UsageError, match="meta"):
        _ = module.net


def test_half_precision_does_not_change_the_bytes_and_a_cast_is_refused() -> None:
    net = make_packed_mlp((12, 5), form="mixed")
    module = PackedModule(net)
    for same in (module.half(), module.double(), module.to(torch.bfloat16), module.to("cpu", torch.float16)):
        assert same.file.dtype == torch.uint8
        assert_runs(same, net)
    module.type(torch.float16)
    with pytest.raises(UsageError, match="float16"):
        module(images_of(net))


def test_damaged_bytes_and_other_outputs_are_refused() -> None:
    net = make_packed_mlp((12, 5))
    module, images = PackedModule(net), images_of(net)
    with pytest.raises(UsageError, match="packed"):
        RUN_PACKED(images, module.file, (6,))
    assert_runs(module, net)
    module.file.data = module.file.data[:-1]
    with pytest.raises(FormatError, match="truncated"):
        module(images)
    module.file[:8] = 255
    for _ in range(2):
        with pytest.raises(FormatError, match="not a"):
            module(images)
    module.load_state_dict(PackedModule(net).state_dict())
    assert_runs(module, net)


def test_outputs_have_no_gradient() -> None:
    """A layer before the net would not train."""
    b = Builder((6,), coding="float32")
    b.affine(6)
    x = torch.randn(3, 6, requires_grad=True)
    made = PackedModule(b.net())(x)
    assert not made.requires_grad
    assert torch.equal(made, PackedModule(b.net())(x.detach()))
    with pytest.raises(UsageError, match="forward-mode"):
        torch.func.jvp(PackedModule(b.net()), (x,), (x,))
