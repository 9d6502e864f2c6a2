"""The net of every recipe packs, is certified, and gives the same bits in numpy and on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from onebit.data import Split
from onebit.errors import NotBinaryError
from onebit.fold import pack
from onebit.native import instruction_sets, make_plan
from onebit.packed import Quantize, Requantize, Sign, Threshold, dumps, infer, loads
from onebit.runs.model import build_model
from onebit.runtime import run
from onebit.verification.agreement import certify
from support.covering import covering, recipe_traits
from support.fold_nets import images_of
from support.recipe_nets import BINARY, RECIPES, SMALL, WHOLE, Net, packed_net, small


def assert_runs(net: Net, count: int) -> None:
    model, packed = packed_net(net, count)
    packed = loads(dumps(packed))
    images = images_of(count, packed.input.shape, seed=2)
    pixels = infer(packed)[packed.output].shape[1:]
    split = Split(images, np.zeros((count, *pixels), np.uint8 if pixels else np.int64))
    certificate = certify(model, packed, split, dataset="toy").certificate
    assert certificate is not None
    assert certificate.label_mismatches == 0
    proven = [node.output for node in packed.nodes if isinstance(node, (Threshold, Sign, Quantize, Requantize))]
    assert sorted(layer.name for layer in certificate.layers) == sorted(proven)
    assert bool(proven) == (net[0].input_quantizer is not None)
    expected = run(packed, images, executor="reference")
    for isa in instruction_sets().values():
        found, nan = make_plan(packed, isa).run(images)
        assert not nan
        np.testing.assert_array_equal(found, expected, err_msg=isa.name)


@pytest.mark.parametrize("name", covering(SMALL, of=lambda name: recipe_traits(RECIPES[name])))
def test_every_recipe_packs_and_runs_natively(name: str) -> None:
    """Daily those that have every trait of a recipe among them."""
    assert_runs(SMALL[name], 4)


@pytest.mark.nightly
@pytest.mark.parametrize("name", WHOLE)
def test_every_recipe_at_its_size_packs_and_runs_natively(name: str) -> None:
    assert_runs(WHOLE[name], 1)


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - BINARY.keys()))
def test_real_baselines_are_refused(name: str) -> None:
    assert "real" in name
    model_recipe, shape, classes = small(RECIPES[name])
    with pytest.raises(NotBinaryError, match="binary layer"):
        pack(build_model(model_recipe, input_shape=shape, classes=classes))
