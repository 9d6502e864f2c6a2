"""Adapters of PEFT itself, from the folder of `make build/language`."""

from __future__ import annotations

import copy

import pytest
import torch

import onebit
from support.language_models import NIGHTLY, make_model

pytestmark = [*NIGHTLY, pytest.mark.filterwarnings("ignore::FutureWarning")]


def test_adapters_of_peft_stay_real_and_are_merged_into_what_dense_makes() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(make_model(), config).eval()
    report = onebit.binarize_(model, weight_quantizer="xnor")
    assert [row.name for row in report.binary if "lora" in row.name] == []
    assert len(report.binary) == 14
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = model(tokens).logits
        merged = onebit.dense_(copy.deepcopy(model)).merge_and_unload()
        found = merged(tokens).logits
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    onebit.packed_layers_(model)
    with pytest.raises(AttributeError, match="dense_"):
        model.merge_and_unload()
