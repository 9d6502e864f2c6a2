"""Adapters of PEFT on packed layers: they train on a base of bits, are saved, and never merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import onebit
from support.language_models import NIGHTLY, make_model

pytestmark = [*NIGHTLY, pytest.mark.filterwarnings("ignore")]  # of PEFT, about tied layers
TOKENS = torch.arange(64 * 16).reshape(64, 16) % 13
LAYERS = ["q_proj", "down_proj", "lm_head"]


def adapted(model: Any) -> Any:
    import peft

    torch.manual_seed(1)
    return peft.get_peft_model(model, onebit.adapt_packed(peft.LoraConfig(r=4, target_modules=LAYERS)))


def test_adapters_train_on_bits_as_on_the_dense_model_and_are_saved(tmp_path: Path) -> None:
    import peft

    binary = make_model()
    onebit.binarize_(binary, weight_quantizer="xnor", embeddings=True)
    dense, packed = onebit.dense_(copy.deepcopy(binary)), binary
    onebit.packed_layers_(packed)
    base = copy.deepcopy(packed)
    model, other = adapted(packed), adapted(dense)
    bits = {name: x.clone() for name, x in model.named_buffers()}
    for one in (model, other):
        one(TOKENS, labels=TOKENS).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in gradients)
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)
    optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(TOKENS, labels=TOKENS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(x, bits[name]) for name, x in model.named_buffers())
    model.save_pretrained(tmp_path)
    config = onebit.adapt_packed(peft.LoraConfig.from_pretrained(tmp_path))
    again = peft.PeftModel.from_pretrained(base, tmp_path, config=config)
    assert torch.equal(again(TOKENS).logits, model.eval()(TOKENS).logits)
    with pytest.raises(AttributeError, match="dense_"):
        model.merge_and_unload()
