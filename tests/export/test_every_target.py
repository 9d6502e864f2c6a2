"""Every target: the nets of recipes, equal bytes, and operations that users add."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onebit.export import EXPORTS, export_net
from onebit.packed import OPS, Affine, Dense, Flatten, PackedNet, Relu
from onebit.packed.nodes import Bounded, Sign
from onebit.packed.nodes.activation import Gelu, GeluTanh, Mish, Silu
from onebit.runtime import run
from support.covering import covering, recipe_traits
from support.packed_nets import IMAGE_NETS, PACKED_TARGETS, Builder, export_to, inputs_of
from support.recipe_nets import RECIPES, SMALL, packed_net

PAIRS = [(recipe, target) for recipe in SMALL for target in PACKED_TARGETS]


@pytest.mark.parametrize(
    ("recipe", "target"), covering(PAIRS, of=lambda recipe, target: (*recipe_traits(RECIPES[recipe]), target))
)
def test_the_net_of_every_recipe_is_exported_and_equal(recipe: str, target: str, tmp_path: Path) -> None:
    made = export_to(target, packed_net(SMALL[recipe], 4)[1], tmp_path)
    if made.comparison is None:
        pytest.skip(made.not_compared)
    if EXPORTS[target].writer.EXACT:
        assert made.comparison.bit_exact


@pytest.mark.parametrize("target", PACKED_TARGETS)
def test_equal_nets_give_equal_bytes(target: str, tmp_path: Path) -> None:
    suffixes, written = EXPORTS[target].suffixes, []
    for folder in ("a", "b"):
        path = tmp_path / folder
        path.mkdir()
        EXPORTS[target].writer.write(IMAGE_NETS["real"](0), path / f"net{suffixes[0]}" if suffixes else path)
        written.append({file.name: file.read_bytes() for file in path.iterdir()})
    assert written[0] == written[1]


def tails() -> tuple[PackedNet, np.ndarray]:
    """Signs behind the tail of an activation, where the value is -0, or rounding decides whether it is."""
    kinds, b = (Silu, Mish, Gelu, GeluTanh), Builder((64,), coding="float32")
    net = b.net(tuple((b.add(kind, "input"), b.add(Sign))[1] for kind in kinds))
    x = np.concatenate([np.linspace(-110, 6, 4096), np.linspace(-7, 0, 4096)]).astype(np.float32).reshape(-1, 64)
    near = np.any([np.abs(x / kind.zero_below - 1) < 0.02 for kind in kinds], axis=0)  # torch's cuts differ
    x = np.where(near, 1, x)
    assert all(set(np.unique(values[x < 0])) == {-1, 1} for values in run(net, x))
    return net, x


def plain_maps() -> tuple[PackedNet, np.ndarray]:
    """Affine maps without scale and shift of bytes, real values, signs and sums of integers; it answers with signs."""
    b = Builder((20,), coding="values")
    for kind in (Relu, Sign, Dense):
        b.add(Affine)
        b.add(kind, **(b.signs(5, 20) if kind is Dense else {}))
    net = b.net((b.add(Affine), b.add(Sign)))
    return net, inputs_of(net, 9)


def gray() -> tuple[PackedNet, np.ndarray]:
    """Images without an axis of channels."""
    b = Builder((1, 6, 6))
    b.add(Flatten)
    b.dense(3)
    return b.net(), inputs_of(b.net(), 5)[:, 0]


@pytest.mark.parametrize("make", [tails, plain_maps, gray])
@pytest.mark.parametrize("target", PACKED_TARGETS)
def test_every_target_gives_the_same_bits(
    target: str, make: Callable[[], tuple[PackedNet, np.ndarray]], tmp_path: Path
) -> None:
    net, x = make()
    np.testing.assert_array_equal(run(net, x, executor="native"), run(net, x, executor="reference"))
    made = export_to(target, net, tmp_path, inputs=x)
    assert made.comparison is None or (made.comparison.bit_exact, made.comparison.samples) == (True, len(x))


@dataclass(frozen=True, eq=False, kw_only=True)
class Relu6(Bounded):
    @property
    def bounds(self) -> tuple[float, float]:
        return 0, 6


def test_a_new_bound_needs_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "relu6", Relu6)
    b = Builder((5,))
    b.add(Dense, **b.signs(8, 5))
    b.affine(8)
    b.add(Relu6)
    b.dense(3)
    net = b.net()
    images = inputs_of(net, 9)
    np.testing.assert_array_equal(run(net, images, executor="native"), run(net, images, executor="reference"))
    for target, name in (("c", "net"), ("onnx", "net.onnx"), ("torch", "net.pth")):
        assert export_net(net, target, tmp_path / name).comparison
