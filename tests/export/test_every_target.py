"""Every target, over the net of every recipe: what is written computes what the packed net does."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from covering import covering, recipe_traits
from recipe_nets import RECIPES, SMALL, packed_net

from onebit.export import EXPORTS, export_net
from onebit.packed import PackedNet


@functools.cache
def net_of(recipe: str) -> PackedNet:
    return packed_net(SMALL[recipe], 4)[1]


@pytest.mark.parametrize("target", EXPORTS)
@pytest.mark.parametrize("recipe", covering(SMALL, of=lambda name: recipe_traits(RECIPES[name])))
def test_the_net_of_every_recipe_is_exported_and_equal(recipe: str, target: str, tmp_path: Path) -> None:
    net, suffixes = net_of(recipe), EXPORTS[target].suffixes
    made = export_net(net, target, tmp_path / f"net{suffixes[0] if suffixes else ''}")
    if made.comparison is None:
        pytest.skip(made.not_compared)
    if EXPORTS[target].writer.EXACT:
        assert made.comparison.bit_exact
