"""A packed net in torch programs gives the bits of `run`, even when compiled, exported, copied or changed."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import onebit.runtime.torch_module
from onebit.data import Split
from onebit.data.decoding import default_workers
from onebit.errors import FormatError, NotBinaryError, UsageError
from onebit.packed import Affine, Dense, Flatten, InputSpec, Node, PackedNet, Sign, dumps, save
from onebit.runtime import run
from onebit.runtime.torch_module import PackedModule
from support.covering import covering
from support.packed_nets import IMAGE_NETS, OTHER_NETS, Builder, inputs_of

Maker = Callable[..., PackedNet]
RUN_PACKED = torch.ops.onebit.run_packed.default
FORMS = ["weight-only", "sign", "mixed", *(f"images {form}" for form in IMAGE_NETS), *OTHER_NETS]
SEVERAL = ["features", "signal"]
RUN_OUTPUTS = torch.ops.onebit.run_packed_outputs.default
# torch's compiler and exporter cause some themselves
TORCHS_OWN = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def make(packed_mlp: Maker) -> Maker:
    """A net of one of FORMS."""
    nets = {**{f"images {form}": net for form, net in IMAGE_NETS.items()}, **OTHER_NETS}
    return lambda form: nets[form](0) if form in nets else packed_mlp((12, 70, 5), form=form)


def images_of(net: PackedNet, count: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(inputs_of(net, count, seed))


def assert_runs(call: Callable[[torch.Tensor], Any], net: PackedNet, *, counts: tuple[int, ...] = (5,)) -> None:
    """Assert that `call` gives the outputs of the net, bit for bit, in batches of several sizes."""
    for count in counts:
        images = images_of(net, count, seed=count)
        made, expected = call(images), run(net, images.numpy())
        assert type(made) is {np.ndarray: torch.Tensor}.get(type(expected), type(expected))
        expected = net.by_name(expected)
        for name, logits in net.by_name(made).items():
            assert (logits.dtype, logits.device.type, logits.requires_grad) == (torch.float32, "cpu", False)
            np.testing.assert_array_equal(logits.numpy().view(np.int32), expected[name].view(np.int32))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every net that is read during the test."""
    found: list[bytes] = []
    read = onebit.runtime.torch_module.loads

    def reading(data: bytes) -> PackedNet:
        found.append(data)
        return read(data)

    monkeypatch.setattr(onebit.runtime.torch_module, "loads", reading)
    return found


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_those_of_run(
    make: Maker, form: str, native: bool, monkeypatch: pytest.MonkeyPatch, readings: list[bytes]
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


def test_images_may_have_any_layout_and_gray_ones_need_no_channel(packed_mlp: Maker) -> None:
    net = IMAGE_NETS["real"](0)
    images = images_of(net)
    expected = PackedModule(net)(images)
    for other in (images.to(memory_format=torch.channels_last), images.flip(0).flip(0), images.mT.contiguous().mT):
        for count in (1, 5):
            torch.testing.assert_close(PackedModule(net)(other[:count]), expected[:count], rtol=0, atol=0)
    grey = packed_mlp((12, 5), shape=(1, 3, 4))
    assert_runs(lambda images: PackedModule(grey)(images[:, 0]), grey, counts=(1, 3))


def test_a_batch_is_shared_by_the_threads_of_torch(packed_mlp: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    net = packed_mlp((12, 5))
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


# ------------------------------------------------------------------------------------------------ an operator of torch
@TORCHS_OWN
@pytest.mark.parametrize("form", ["mixed", "images sign"])
def test_the_operator_obeys_the_rules_of_torch(make: Maker, form: str) -> None:
    net = make(form)
    module = PackedModule(net)
    found = torch.library.opcheck(RUN_PACKED, (images_of(net), module.file, [*module.signature.shapes[0]]))
    assert set(found.values()) == {"SUCCESS"}


@TORCHS_OWN
@pytest.mark.parametrize("form", SEVERAL)
def test_the_operator_of_several_outputs_obeys_the_rules_of_torch(make: Maker, form: str) -> None:
    net = make(form)
    module = PackedModule(net)
    shapes = module.signature.shapes
    sizes, ranks = [size for shape in shapes for size in shape], [*map(len, shapes)]
    found = torch.library.opcheck(RUN_OUTPUTS, (images_of(net), module.file, sizes, ranks))
    assert set(found.values()) == {"SUCCESS"}
    made = RUN_OUTPUTS(images_of(net), module.file, sizes, ranks)
    assert len({tensor.untyped_storage().data_ptr() for tensor in made}) == len(net.outputs)
    with pytest.raises(UsageError, match="outputs"):
        RUN_OUTPUTS(images_of(net), module.file, [*sizes, 1], ranks[:-1])
    with pytest.raises(UsageError, match="packed"):
        RUN_PACKED(images_of(net), module.file, [3])


@TORCHS_OWN
@pytest.mark.parametrize("form", OTHER_NETS)
def test_nets_of_any_input_compile_and_export(make: Maker, form: str, tmp_path: Path) -> None:
    torch.compiler.reset()
    net = make(form)
    assert_runs(torch.compile(PackedModule(net), fullgraph=True, backend="aot_eager"), net, counts=(5, 2, 1))
    batch = torch.export.Dim("batch")
    program = torch.export.export(PackedModule(net), (images_of(net),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    assert_runs(torch.export.load(tmp_path / "net.pt2").module(), net, counts=(5, 2))


def test_a_net_of_another_input_or_other_outputs_is_not_loaded(make: Maker) -> None:
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
        names = {node.output: f"x{index}" for index, node in enumerate(net.nodes)} | {"input": "input"}
        nodes = tuple(
            replace(node, output=names[node.output], inputs=tuple(names[name] for name in node.inputs))
            for node in net.nodes
        )
        renamed = replace(net, nodes=nodes, output=renamed_output(net.output, names))
        module = PackedModule(net)
        module.load_state_dict(PackedModule(renamed).state_dict())
        assert_runs(module, renamed)
        assert_runs(copy.deepcopy(module), renamed)


def renamed_output(output: Any, names: dict[str, str]) -> Any:
    if isinstance(output, dict):
        return {key: names[name] for key, name in output.items()}
    return tuple(names[name] for name in output)


def test_what_a_module_of_any_net_takes_is_refused_or_run(make: Maker) -> None:
    net = make("features")
    module = PackedModule(net)
    with pytest.raises(UsageError, match="float64"):
        module(images_of(net).double())
    for count in (1, 5):
        batch = images_of(net, count)
        batch[0, 3] = torch.nan
        with pytest.raises(UsageError, match="infinite"):
            module(batch)


@TORCHS_OWN
@pytest.mark.parametrize(
    ("backend", "dynamic"), covering(product(["eager", "aot_eager", "inductor"], [None, True, False]))
)
def test_the_module_compiles_without_a_break(make: Maker, backend: str, dynamic: bool | None) -> None:
    torch.compiler.reset()
    net = make("images real")
    compiled = torch.compile(PackedModule(net), fullgraph=True, backend=backend, dynamic=dynamic)
    assert_runs(compiled, net, counts=(5, 3, 1, 2))


@TORCHS_OWN
def test_a_compiled_module_sees_a_changed_net(packed_mlp: Maker) -> None:
    torch.compiler.reset()
    module = PackedModule(packed_mlp((12, 5), seed=0))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_runs(compiled, module.net)
    other = packed_mlp((12, 5), seed=1)
    module.load_state_dict(PackedModule(other).state_dict())
    assert_runs(compiled, other)


@TORCHS_OWN
def test_an_exported_program_takes_any_batch_and_contains_one_bit_weights(packed_mlp: Maker, tmp_path: Path) -> None:
    net = packed_mlp((784, 300, 10), form="sign")
    batch = torch.export.Dim("batch")
    program = torch.export.export(PackedModule(net), (images_of(net),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    assert (tmp_path / "net.pt2").stat().st_size < len(dumps(net)) + 20_000 < 784 * 300
    program = torch.export.load(tmp_path / "net.pt2")
    assert list(program.state_dict) == ["file"]
    assert_runs(program.module(), net, counts=(5, 1, 2, 0))


def test_its_score_names_packed_weights(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
    images = images_of(net, 9)
    labels = run(net, images.numpy()).argmax(axis=1)
    labels[0] += 1
    score = onebit.evaluate(PackedModule(net), Split(images.numpy(), labels % 5))
    assert (score.weights, score.correct, score.count) == ("packed", 8, 9)


def test_logits_have_no_gradient_and_later_layers_train(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
    head = torch.nn.Linear(5, 3)
    assert_runs(PackedModule(net), net)
    head(PackedModule(net)(images_of(net))).sum().backward()
    torch.testing.assert_close(head.weight.grad, PackedModule(net)(images_of(net)).sum(0).expand(3, 5))
    assert list(PackedModule(net).parameters()) == []


# ------------------------------------------------------------------------------------------------- copies and changes
def test_the_state_dict_is_the_file(packed_mlp: Maker, tmp_path: Path) -> None:
    net = packed_mlp((12, 70, 5), form="mixed")
    save(net, tmp_path / "net.1bit")
    module = torch.nn.ModuleDict({"inner": PackedModule(tmp_path / "net.1bit")})
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert list(state) == ["inner.file"]
    assert state["inner.file"].numpy().tobytes() == (tmp_path / "net.1bit").read_bytes()
    for assign in (False, True):
        other = replace(packed_mlp((12, 5), seed=1), name="of a longer name, and of another depth")
        target = torch.nn.ModuleDict({"inner": PackedModule(other)})
        target.load_state_dict(state, assign=assign)
        assert_runs(target["inner"], net)
        assert target["inner"].net.name == net.name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda make: make((12, 4)), "file: got"),
        (lambda make: make((13, 5)), "file: got"),
        (lambda make: torch.zeros(9), "float32"),
        (lambda make: torch.zeros(900, dtype=torch.uint8), "file: is not"),
        (lambda make: None, r"Missing key\(s\) in state_dict: \"file\""),
    ],
)
def test_a_net_that_does_something_else_is_not_loaded(packed_mlp: Maker, wrong: Any, message: str) -> None:
    net = packed_mlp((12, 5))
    module, given = PackedModule(net), wrong(packed_mlp)
    given = PackedModule(given).file if isinstance(given, PackedNet) else given
    with pytest.raises(RuntimeError, match=message):
        module.load_state_dict({} if given is None else {"file": given})
    assert_runs(module, net)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save", "other process"])
def test_a_copy_runs_and_is_independent(packed_mlp: Maker, copied: str) -> None:
    net, other = packed_mlp((12, 5), seed=0), packed_mlp((12, 5), seed=1)
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
    assert repr(twin) == repr(module)
    module.load_state_dict(PackedModule(other).state_dict())
    assert_runs(module, other)
    assert_runs(twin, other if copied == "other process" else net)


@TORCHS_OWN
def test_workers_of_a_loader_run_it(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
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
def test_a_net_that_is_changed_in_place_is_read_again(
    packed_mlp: Maker, change: str, inference: bool, readings: list[bytes]
) -> None:
    nets = [packed_mlp((12, 70, 5), seed=seed) for seed in range(2)]
    with torch.inference_mode(inference):
        module, *files = [PackedModule(nets[0]), *(PackedModule(net).file for net in nets)]
        assert len(files[0]) == len(files[1])
        for step in (0, 0, 1, 1, 0):
            CHANGES[change](module, files[step])
            assert_runs(module, nets[step], counts=(2, 1))
    assert len(readings) == (5 if change in ("swapped", "assigned") else 3)  # the same bytes are not read again


@pytest.mark.parametrize("how", ["counted", "inference", "shared", "alias"])
def test_a_change_of_the_last_weight_of_a_large_file_is_seen(packed_mlp: Maker, how: str) -> None:
    net = packed_mlp((784, 800, 5), form="sign")
    with torch.inference_mode(how == "inference"):
        module = PackedModule(net)
        assert module.file.numel() > onebit.runtime.torch_module._COMPARED
        if how == "shared":
            module = ForkingPickler.loads(ForkingPickler.dumps(module))
        assert_runs(module, net)
        file = module.file.data if how == "alias" else module.file
        last = net.nodes[-2]
        assert isinstance(last, Dense)
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


def test_altered_bits_are_refused_everywhere(packed_mlp: Maker, tmp_path: Path) -> None:
    net, rng = packed_mlp((12, 70, 5), form="mixed"), random.Random(0)
    good, images = dumps(net), images_of(net)
    for bit in (rng.randrange(8 * len(good)) for _ in range(100)):
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


def test_many_nets_alternate(packed_mlp: Maker, readings: list[bytes]) -> None:
    nets = [packed_mlp((6, 3), seed=seed) for seed in range(40)]
    modules = [PackedModule(net) for net in nets]
    for _ in range(2):
        for module, net in zip(modules, nets, strict=True):
            assert_runs(module, net, counts=(1,))
    assert len(readings) == 40


USES: dict[str, Callable[[PackedModule, Path], Any]] = {
    "called": lambda module, _: module,
    "its net asked for": lambda module, _: module.net,
    "copied": lambda module, _: copy.deepcopy(module),
    "compiled": lambda module, _: torch.compile(module, fullgraph=True, backend="aot_eager"),
    "exported": lambda module, folder: exported(module, folder / "net.pt2"),
    "inference": lambda module, _: torch.inference_mode()(module),
}


def exported(module: PackedModule, path: Path) -> torch.nn.Module:
    torch.export.save(torch.export.export(module, (torch.zeros(5, 1, 1, 12, dtype=torch.uint8),)), path)
    return torch.export.load(path).module()


@TORCHS_OWN
@pytest.mark.parametrize("use", USES)
def test_a_deleted_module_frees_its_net(packed_mlp: Maker, use: str, tmp_path: Path) -> None:
    torch.compiler.reset()
    net = packed_mlp((12, 5))
    module = PackedModule(net)
    call = USES[use](module, tmp_path)
    for one in (module, call):
        if callable(one):
            assert_runs(one, net)
    read = weakref.ref(module.net)
    kept = [
        weakref.ref(module.file.untyped_storage()),
        read,
        weakref.ref(onebit.runtime.torch_module._read(module.file).plan),
    ]
    before = len(onebit.runtime.torch_module._READ)
    del module, call, one
    torch.compiler.reset()
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3
    assert len(onebit.runtime.torch_module._READ) < before


def test_a_replaced_net_is_freed(packed_mlp: Maker) -> None:
    gc.freeze()  # only what is made from here on is looked through
    try:
        module = PackedModule(packed_mlp((12, 5), seed=0))
        for change in (CHANGES["copy_"], CHANGES["assigned"], CHANGES["swapped"]):
            for seed in (1, 0):
                old = weakref.ref(module.net)
                change(module, PackedModule(packed_mlp((12, 5), seed=seed)).file)
                assert_runs(module, module.net)
                gc.collect()
                assert old() is None
    finally:
        gc.unfreeze()


def test_a_strided_file_is_read(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
    file = torch.stack([PackedModule(net).file] * 2, 1)[:, 0]
    for _ in range(2):
        assert_runs(lambda images: RUN_PACKED(images, file.detach(), (5,)), net)


# ---------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 9, 8),
        torch.zeros(2, 3, 8, 9, dtype=torch.uint8),
        torch.zeros(3, 9, 8, dtype=torch.uint8),
        torch.zeros((), dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(images: torch.Tensor) -> None:
    message = r"^got inputs .*, expected uint8 \(N, 3, 9, 8\)$"
    module = PackedModule(IMAGE_NETS["sign"](0))
    with pytest.raises(UsageError, match=message):
        module(images)
    if images.dtype == torch.uint8:
        with torch.no_grad(), pytest.raises(UsageError, match=message):
            RUN_PACKED(images, module.file, [5])


def test_other_devices_are_refused(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
    module, images = PackedModule(net), images_of(net)
    # as the operator on a GPU
    with pytest.raises(TypeError, match="meta"):
        onebit.runtime.torch_module._run_packed_outputs(images.to("meta"), module.file, [5], [1])
    with pytest.raises(UsageError, match="meta"):
        onebit.runtime.torch_module._run_packed_outputs(images, module.file.to("meta"), [5], [1])
    module.to("meta")
    with pytest.raises(UsageError, match="meta"):
        _ = module.net


def test_half_precision_does_not_change_the_bytes_and_a_cast_is_refused(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5), form="mixed")
    module = PackedModule(net)
    for same in (module.half(), module.double(), module.to(torch.bfloat16), module.to("cpu", torch.float16)):
        assert same.file.dtype == torch.uint8
        assert_runs(same, net)
    module.type(torch.float16)
    with pytest.raises(UsageError, match="float16"):
        module(images_of(net))


def test_damaged_bytes_and_other_logits_are_refused(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
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


def test_logits_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    double = Affine(inputs=("x",), output="a", scale=np.full(2, 3e38, np.float32))
    nan = Affine(inputs=("a",), output="b", scale=np.zeros(2, np.float32))  # infinity · 0
    start, sign = Flatten(inputs=("input",), output="x"), Sign(inputs=("b",), output="s")

    def module(*nodes: Node) -> PackedModule:
        spec = InputSpec(shape=(1, 1, 2))
        return PackedModule(PackedNet(input=spec, nodes=(start, *nodes), output=nodes[-1].output))

    for count in (1, 3):
        images = torch.full((count, 1, 1, 2), 255, dtype=torch.uint8)
        with pytest.raises(FormatError, match="not finite"):
            module(double)(images)
        with pytest.raises(NotBinaryError, match="NaN"):
            module(double, nan, sign)(images)


def test_the_repr_of_a_module(packed_mlp: Maker) -> None:
    net = packed_mlp((12, 5))
    line = f"(0): PackedModule(uint8 (1, 1, 12) -> ((5,),), {len(dumps(net)):,} bytes)"
    assert line in repr(torch.nn.Sequential(PackedModule(net)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, at its first jvp
def test_outputs_have_no_gradient() -> None:
    """A layer before the net would be trained by nothing, in silence."""
    b = Builder((6,), coding="float32")
    b.affine(6)
    x = torch.randn(3, 6, requires_grad=True)
    made = PackedModule(b.net())(x)
    assert not made.requires_grad
    assert torch.equal(made, PackedModule(b.net())(x.detach()))
    with pytest.raises(UsageError, match="packed nets have no forward-mode derivatives"):
        torch.func.jvp(PackedModule(b.net()), (x,), (x,))
