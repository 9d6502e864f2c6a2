"""Nets of timm with binary weights: most pack whole and answer as torch, all do so layer by layer."""

from __future__ import annotations

import pytest

from benchmarks import zoo
from onebit.errors import FoldError

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not zoo.FOLDER.is_dir(), reason="timm is not installed: make build/timm"),
]

REFUSED = {
    "convnext_atto": "layer_norm",
    "deit_tiny_patch16_224": "cat",
    "mixer_s32_224": "LayerNorm",
    "efficientvit_b0": "matmul",
    "levit_128s": "flatten",
}
"""Net -> the operation that keeps it from being packed whole."""


@pytest.mark.parametrize("name", zoo.NETS)
def test_a_net_of_timm_answers_as_torch(name: str) -> None:
    """`difference` raises where it does not."""
    _, model, images = zoo.build(name)
    if name in REFUSED:
        with pytest.raises(FoldError, match=REFUSED[name]):
            zoo.pack_whole(model, images)
    else:
        zoo.difference(name, zoo.pack_whole(model, images), model, images)
    zoo.difference(name, zoo.pack_layers(model), model, images)
