"""Nets with several inputs: packed, run, verified, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import onebit
from onebit.errors import FoldError, OnebitError, UsageError
from onebit.export import EXPORTS
from onebit.layers import BinaryLinear, Normalize
from onebit.native import instruction_sets, make_plan
from onebit.packed import dumps, loads
from support.packed_nets import PACKED_TARGETS, export_to
from support.several_inputs import CASES, Siamese, image, vector

each = pytest.mark.parametrize("name", CASES)


def flat(net: onebit.packed.PackedNet, answer: Any) -> np.ndarray:
    """All outputs in one row, as bits."""
    parts = [np.ascontiguousarray(part, np.float32).reshape(-1) for part in net.by_name(answer).values()]
    return np.concatenate(parts).view(np.int32)


@each
@torch.no_grad()
def test_every_executor_answers_as_torch(name: str) -> None:
    model, batch = CASES[name].make()
    net = onebit.pack(model, batch)
    assert [*net.inputs] == CASES[name].names
    reference = onebit.run(net, batch, executor="reference")
    theirs = net.by_name(model(*batch))
    for key, part in net.by_name(reference).items():
        np.testing.assert_allclose(part, theirs[key].numpy(), rtol=1e-5, atol=1e-5)
    expected = flat(net, reference)
    arrays = [part.numpy() for part in batch]
    for isa in instruction_sets().values():
        plan = make_plan(net, isa)
        plan.plan.batch = 3
        for parts in (1, 2):
            found, nan = plan.run(*arrays, parts=parts)
            assert not nan
            assert np.array_equal(found.reshape(-1).view(np.int32), expected), isa.name
    for options in ({"batch_size": 7}, {"threads": 2}, {"batch_size": 1}):
        assert np.array_equal(flat(net, onebit.run(net, batch, **options)), expected)
    by_name = dict(zip(reversed(net.inputs), reversed(batch), strict=True))
    assert np.array_equal(flat(net, onebit.run(net, by_name)), expected)
    module = onebit.PackedModule(loads(dumps(net)))
    for answer in (module(*batch), module(**by_name), module(batch[0], **dict([*by_name.items()][:-1]))):
        assert np.array_equal(flat(net, answer), expected)
    assert len(flat(net, onebit.run(net, tuple(part[:0] for part in batch)))) == 0


@torch.no_grad()
def test_torch_programs_of_a_module_with_several_inputs() -> None:
    model, batch = CASES["described"].make()
    net = onebit.pack(model, batch)
    expected, module = flat(net, onebit.run(net, batch)), onebit.PackedModule(net)
    exported = torch.export.export(module, batch).module()
    for program in (torch.compile(module, backend="eager"), exported):
        assert np.array_equal(flat(net, program(*batch)), expected)


@each
@pytest.mark.parametrize("target", PACKED_TARGETS)
def test_exports_have_the_same_bits_or_refuse(name: str, target: str, tmp_path: Path) -> None:
    model, batch = CASES[name].make(20)
    net = onebit.pack(model, batch)
    if target == "html" or (target == "c" and name == "described"):
        with pytest.raises(UsageError, match="input"):
            export_to(target, net, tmp_path, inputs=batch)
        return
    made = export_to(target, net, tmp_path, inputs=batch)
    if made.comparison is None:
        pytest.skip(made.not_compared)
    assert made.comparison.samples == 20
    if EXPORTS[target].writer.EXACT or name != "described":
        assert made.comparison.bit_exact


@each
def test_the_certificate_names_the_inputs(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, batch = case.make()
    named = dict(zip(case.names, batch, strict=True))
    for data in (named, (named, None), (batch, None), DataLoader(TensorDataset(*batch), collate_fn=collated)):
        net = onebit.pack(model, batch if case.names[0] == "input_0" else named, data=data)
        assert net.certificate is not None
        assert (net.certificate.count, [*net.certificate.inputs]) == (40, case.names)
    onebit.save(net, tmp_path / "net.1bit")
    back = onebit.load(tmp_path / "net.1bit")
    assert back.certificate == net.certificate
    assert ", ".join(case.names) in back.statement


def collated(rows: list[tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], None]:
    return tuple(map(torch.stack, zip(*rows, strict=True))), None


def test_labels_come_with_the_data_and_a_wrong_order_is_found() -> None:
    model, (left, right) = CASES["siamese"].make(100)
    with torch.no_grad():
        labels = model(left, right).argmax(dim=1)
    net = onebit.pack(model, (left, right), data=((left, right), labels))
    assert net.certificate is not None
    assert (net.certificate.compared, net.certificate.correct) == ("labels", 100)
    swapped = onebit.pack(model, {"right": right, "left": left})
    assert [*swapped.inputs] == ["right", "left"]
    assert onebit.verify(model, swapped, {"left": left, "right": right}).ok
    found = onebit.verify(model, net, ((left, right), None), trained=lambda given: model(*given[::-1]))
    assert not found.ok


def test_sums_of_several_inputs_become_integers() -> None:
    model, batch = CASES["summed"].make(64)
    net = onebit.integer_net(onebit.pack(model, batch), batch, activations=8)
    assert [*net.inputs] == CASES["summed"].names
    assert np.array_equal(onebit.run(net, batch), onebit.run(net, batch, executor="reference"))


def test_wrong_inputs_are_refused() -> None:
    model, (left, right) = CASES["siamese"].make()
    net = onebit.pack(model, (left, right))
    for given in (left, (left,), {"left": left}, {"left": left, "other": right}, (left, right[:3]), (left, left, left)):
        with pytest.raises(UsageError):
            onebit.run(net, given)
    module = onebit.PackedModule(net)
    for arguments, named in (((left,), {}), ((left, right, right), {}), ((left,), {"left": left})):
        with pytest.raises(UsageError, match="left"):
            module(*arguments, **named)
    with pytest.raises(UsageError, match="inputs"):
        _ = net.input
    for data in ((left, right), ((left, right[:3]), None)):  # a pair is (inputs, targets)
        with pytest.raises(OnebitError):
            onebit.verify(model, net, data)


class Ignores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = BinaryLinear(5, 2)

    def forward(self, used: Tensor, unused: Tensor) -> Tensor:
        return self.fc(used)


def test_a_single_input_by_name() -> None:
    x = vector(0, 20, 5)
    for example in (x, (x,), [x], {"input": x}):
        packed = onebit.pack(nn.Sequential(BinaryLinear(5, 2)), example)
        assert [*packed.inputs] == ["input"]
    chosen = onebit.pack(Chooses(), {"second": x}, data={"second": x})
    assert [*chosen.inputs] == ["second"]
    assert np.array_equal(onebit.run(chosen, x), onebit.run(chosen, {"second": x}))
    assert chosen.certificate is not None


class Chooses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = BinaryLinear(5, 2)

    def forward(self, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        return self.fc(second) if first is None else -self.fc(first)


def test_what_does_not_pack_with_several_inputs() -> None:
    x = vector(0, 2, 5)
    with pytest.raises(FoldError, match="unused"):
        onebit.pack(Ignores(), (x, x))
    with pytest.raises(FoldError, match="cannot follow"):
        onebit.pack(Ignores(), (x, x, x))
    with pytest.raises(UsageError, match="float64"):
        onebit.pack(Ignores(), (x, x.double()))
    with pytest.raises(UsageError, match="other"):
        onebit.pack(Ignores(), {"used": x, "other": x})
    with pytest.raises(UsageError, match="preprocess"):
        onebit.pack(Siamese(), (image(0, 2), image(1, 2)), preprocess=Normalize(0.5, 0.5))
    assert onebit.check(Siamese(), (image(0, 2), image(1, 2))).whole
