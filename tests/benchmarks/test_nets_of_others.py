"""Nets of others: those of timm pack whole and answer as torch; llama.cpp and packed layers in transformers agree."""

from __future__ import annotations

import pytest

from benchmarks import language, zoo

pytestmark = pytest.mark.nightly


@pytest.mark.skipif(not zoo.FOLDER.is_dir(), reason="timm is not installed: make build/timm")
@pytest.mark.parametrize("name", zoo.NETS)
def test_a_net_of_timm_answers_as_torch(name: str) -> None:
    """`difference` raises where it does not."""
    _, model, images = zoo.build(name)
    zoo.difference(name, zoo.pack_whole(model, images), model, images)
    zoo.difference(name, zoo.pack_layers(model), model, images)


FAMILIES = (
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "convnextv2_atto"),
    *("mobilevit_xxs", "mobilevitv2_050", "efficientformer_l1", "efficientformerv2_s0", "mobilenetv3_large_100"),
    *("regnety_002", "poolformer_s12", "resmlp_12_224", "pit_ti_224", "tiny_vit_5m_224", "hiera_tiny_224"),
)


@pytest.mark.skipif(not zoo.FOLDER.is_dir(), reason="timm is not installed: make build/timm")
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_pack_whole(name: str) -> None:
    _, model, images = zoo.build(name)
    zoo.difference(name, zoo.pack_whole(model, images), model, images)


# ------------------------------------------------------------------------------------------------------ language models
@pytest.mark.skipif(not language.FOLDER.is_dir(), reason="transformers is not installed: make build/language")
@pytest.mark.parametrize("shape", [None, "small"])
def test_a_small_net_is_measured(shape: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`measure` raises where outputs differ."""
    monkeypatch.setitem(language.SHAPES, "small", (128, 256, 2, 4, 2, 64, 2000))
    sizes = {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
    monkeypatch.setattr(language, "LLAMA", language.LLAMA | sizes | {"num_key_value_heads": 1})
    rows = list(language.measure(shape=shape, prompt=8, tokens=3, rounds=1))  # type: ignore[arg-type]
    names = [row["net"] for row in rows]
    assert names[:3] == ["llama.cpp", "onebit", "onebit, keys and values in int8"]
    assert len(names) == (5 if shape is None else 3)
    assert all(row["prompt_per_s"] > 0 and row["generated_per_s"] > 0 for row in rows)
