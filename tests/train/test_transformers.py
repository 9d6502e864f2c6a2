"""Models of transformers with binary weights: `fit`, loops of others, checkpointed, compiled and generating."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import onebit
from support.language_models import NIGHTLY, SIZES, make_model

pytestmark = NIGHTLY
COUNTING = np.arange(64 * 16).reshape(64, 16) % 13
TOKENS = torch.from_numpy(COUNTING[:4])


def binary_model(kind: str = "llama") -> Any:
    model = make_model(kind)
    onebit.binarize_(model, weight_quantizer="magnitude_aware")
    return model


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    return onebit.clip_latents_(torch.optim.AdamW(onebit.latent_groups(model, lr=3e-3)))


def perplexity(model: Any) -> float:
    return onebit.evaluate(model, COUNTING, loss="next_token", verbose=False).metrics["perplexity"]


class Rows(Dataset[dict[str, torch.Tensor]]):
    """What a Trainer of transformers takes."""

    def __len__(self) -> int:
        return len(COUNTING)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(COUNTING[index])
        return {"input_ids": row, "labels": row}


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_fit_and_evaluate_take_the_model_itself(kind: str) -> None:
    model = binary_model(kind)
    assert perplexity(model) > SIZES["vocab_size"] / 2
    history = onebit.fit(
        model, COUNTING, optimizer_of(model), epochs=8, batch_size=16, loss="next_token", validation=COUNTING
    )
    assert perplexity(model) < 4
    assert history.rows[-1].validation_metrics["perplexity"] == pytest.approx(perplexity(model), rel=0.1)
    with torch.no_grad():
        own = model(TOKENS, labels=TOKENS).loss.item()
    assert onebit.evaluate(model, TOKENS, loss="next_token").loss == pytest.approx(own, rel=1e-4)


def test_the_trainer_of_transformers_trains_it(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    model = binary_model()
    before = perplexity(model)
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=16, num_train_epochs=8, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=Rows(), optimizers=(optimizer_of(model), None)).train()
    assert perplexity(model.eval()) < before / 8
    model.save_pretrained(tmp_path / "saved")
    loaded = type(model).from_pretrained(tmp_path / "saved").eval()
    onebit.binarize_(loaded, weight_quantizer="magnitude_aware")
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


def test_a_bare_loop_trains_it() -> None:
    model = binary_model().train()
    optimizer, losses = optimizer_of(model), []
    for _ in range(30):
        loss = model(torch.from_numpy(COUNTING), labels=torch.from_numpy(COUNTING)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert perplexity(model.eval()) < math.exp(losses[0]) / 3


def test_checkpointed_activations_have_the_same_gradients() -> None:
    found = []
    for checkpointed in (False, True):
        model = binary_model().train()
        if checkpointed:
            model.activation_checkpointing_enable()
        model(TOKENS, labels=TOKENS).loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient is not None
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_a_compiled_model_has_the_same_loss_and_gradients() -> None:
    model = binary_model().train()
    for run in (model, torch.compile(model)):
        model.zero_grad()
        run(TOKENS, labels=TOKENS).loss.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        if run is model:
            expected = gradients
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


def test_a_cache_does_not_change_what_is_generated() -> None:
    model = binary_model()
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 95}
    with torch.no_grad():
        assert torch.equal(model.generate(TOKENS, **options), model.generate(TOKENS, use_cache=False, **options))
