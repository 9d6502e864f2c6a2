"""Encoders of transformers pack whole, on embeddings and on spectrograms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit
from support.fold_nets import assert_answers
from support.language_models import NIGHTLY

pytestmark = NIGHTLY
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WHISPER = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "max_source_positions": 16}


class Encoder(nn.Module):
    """The last hidden state of an encoder, whose input has this name."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net, self.name = net, name

    def forward(self, x: Tensor) -> Tensor:
        return self.net(**{self.name: x}).last_hidden_state


def made(kind: str, attention: str) -> tuple[nn.Module, tuple[int, ...]]:
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    fields: dict[str, Any] = {"attn_implementation": attention, "pad_token_id": 0}
    if kind == "Whisper":
        config = transformers.WhisperConfig(d_model=32, num_mel_bins=8, **WHISPER, **fields)
        return Encoder(WhisperEncoder(config), "input_features"), (8, 32)
    more = {"embedding_size": 32} if kind in ("Albert", "Electra") else {}
    config = getattr(transformers, f"{kind}Config")(**SIZES, **more, **fields, vocab_size=50)
    return Encoder(getattr(transformers, f"{kind}Model")(config), "inputs_embeds"), (16, 32)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra", "Albert", "Whisper"])
def test_an_encoder_answers_as_torch(kind: str, attention: str) -> None:
    net, shape = made(kind, attention)
    onebit.binarize_(net.eval(), weight_quantizer="xnor")
    inputs = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    assert_answers(net, onebit.pack(net, torch.from_numpy(inputs)), inputs)
