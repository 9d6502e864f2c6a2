"""Language models: the cost of a token, training and evaluation of tokens, models that also return a cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from onebit.errors import UsageError
from onebit.evaluation.losses import next_token, token_costs
from onebit.evaluation.metrics import is_classification
from onebit.evaluation.modes import evaluate
from onebit.layers import BinaryLinear
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers.binaryconnect import Sign, Stochastic
from onebit.train.loop import fit

WORDS = 7
COUNTING = (np.arange(12 * 9).reshape(12, 9) % WORDS).astype(np.uint16)
"""Each token is the one before it, plus 1."""


class Cache:
    """What a model keeps of earlier tokens."""


class Model(nn.Module):
    """Guesses the next token from the last; returns what models of transformers do."""

    def __init__(self, quantizer: Sign) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 16)
        self.linear = BinaryLinear(16, 32, weight_quantizer=quantizer)
        self.head = nn.Linear(32, WORDS)

    def forward(self, tokens: Tensor) -> dict[str, object]:
        return {"logits": self.head(self.linear(self.embedding(tokens)).relu()), "past_key_values": Cache()}


def model(quantizer: Sign | None = None) -> Model:
    torch.manual_seed(0)
    return Model(quantizer or Sign())


def trained(net: Model, tokens: object, *, epochs: float, **options: object) -> list[float]:
    optimizer = clip_latents_(torch.optim.SGD(latent_groups(net, lr=0.1)))
    history = fit(net, tokens, optimizer, epochs=epochs, loss="next_token", batch_size=6, **options)
    return [row.train_loss for row in history.rows]


def tokens_with_gaps() -> np.ndarray:
    targets = COUNTING.astype(np.int64)
    targets[:4, 3:] = -100
    targets[5, 5] = -100
    return targets


def test_the_cost_of_a_token_is_its_negative_log_probability_given_those_before_it() -> None:
    logits, tokens = torch.randn(3, 5, WORDS), torch.randint(0, WORDS, (3, 5))
    tokens[1, 2] = -100
    expected = [
        -math.log(float(logits[row, t - 1].softmax(0)[tokens[row, t]]))
        for row in range(3)
        for t in range(1, 5)
        if tokens[row, t] >= 0
    ]
    costs, known = token_costs({"logits": logits}, tokens)
    torch.testing.assert_close(costs, torch.tensor(expected))
    assert known.tolist() == [int(token) for row in tokens for token in row[1:] if token >= 0]
    torch.testing.assert_close(next_token(logits, tokens), torch.tensor(expected).mean())


class Keywords(Model):
    """Takes what a collator of transformers gives."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, object]:  # type: ignore[override]
        return super().forward(input_ids)


def test_padded_tokens_of_every_form_train_and_count_alike() -> None:
    padded = np.where(np.arange(9) < 2 + np.arange(12)[:, None] % 8, COUNTING.astype(np.int64), -100)
    filled = np.where(padded < 0, 3, padded)
    rows = [{"input_ids": x, "attention_mask": (y >= 0) * 1, "labels": y} for x, y in zip(filled, padded, strict=True)]
    nets: list[Any] = [model(), model(), Keywords(Sign())]
    nets[2].load_state_dict(nets[0].state_dict())
    data: list[Any] = [padded, (filled, padded), rows]
    losses = [trained(net, each, epochs=3, validation=each) for net, each in zip(nets, data, strict=True)]
    assert losses[0] == losses[1] == losses[2]
    scores = [evaluate(net, each, loss="next_token") for net, each in zip(nets, data, strict=True)]
    assert scores[0] == scores[1] == scores[2]
    with torch.no_grad():
        costs = token_costs(nets[0].eval()(torch.from_numpy(filled)), torch.from_numpy(padded))[0]
    assert scores[0].loss == pytest.approx(float(costs.mean()))
    assert scores[0].count == int((padded[:, 1:] >= 0).sum())
    assert evaluate(nets[2], DataLoader(rows, 5), loss="next_token").loss == pytest.approx(scores[0].loss)  # type: ignore[arg-type]
    for wrong in (padded[:, ::-1], DataLoader([{**row, "input_ids": row["labels"].clip(5)} for row in rows], 5)):  # type: ignore[list-item]
        with pytest.raises(UsageError, match="next_token"):
            evaluate(nets[2], wrong, loss="next_token")


@pytest.mark.parametrize("tokens", [torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3), torch.zeros(3, 5)])
def test_tokens_of_another_shape_are_refused(tokens: Tensor) -> None:
    with pytest.raises(UsageError, match="next_token"):
        token_costs(torch.zeros(3, 5, WORDS), tokens)


def test_a_model_with_a_cache_learns_to_count() -> None:
    net = model()
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(net, lr=2e-2)))
    history = fit(net, COUNTING, optimizer, epochs=20, loss="next_token", batch_size=6, validation=COUNTING)
    score = evaluate(net, COUNTING, loss="next_token")
    assert score.metrics["perplexity"] == pytest.approx(math.exp(score.loss)) == pytest.approx(1, abs=0.2)
    assert history.rows[-1].validation_loss == pytest.approx(score.loss, rel=0.05)  # bf16 on some processors
    assert (score.correct, score.count) == (None, 12 * 8)
    assert str(score).endswith("(96 tokens; binary weights)")


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_add_up_to_the_whole_whatever_tokens_do_not_count(parts: int) -> None:
    data = COUNTING, tokens_with_gaps()
    whole, divided = model(), model()
    losses = [trained(net, data, epochs=1, precision="fp32", accumulate=n) for net, n in ((whole, 1), (divided, parts))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(whole.parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_an_ensemble_averages_the_probabilities_of_the_tokens() -> None:
    net = model(Stochastic())
    draws = torch.Generator().manual_seed(3)
    tokens = torch.from_numpy(COUNTING.astype(np.int64))
    probabilities = []
    for _ in range(4):
        weight = net.linear.sample_weight(generator=draws)
        net.linear.fixed_weight = weight.dense()
        probabilities.append((-token_costs(net(tokens), tokens)[0]).exp())
    net.linear.fixed_weight = None
    expected = -torch.stack(probabilities).mean(0).log().mean()
    assert evaluate(net, COUNTING, weights="ensemble:4", seed=3, loss="next_token").loss == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.mark.parametrize("loader", [False, True])
def test_targets_that_were_shifted_already_are_refused(loader: bool) -> None:
    tokens = torch.from_numpy(COUNTING.astype(np.int64))
    data: Any = tokens[:, :-1], tokens[:, 1:]
    data = DataLoader(TensorDataset(*data), 6) if loader else data
    with pytest.raises(UsageError, match="shifts"):
        evaluate(model(), data, loss="next_token")
    with pytest.raises(UsageError, match="shifts"):
        trained(model(), data, epochs=1)


def test_logits_of_tokens_are_no_classification_for_a_loss_of_the_user() -> None:
    assert not is_classification(None, torch.zeros(3, 5, WORDS), torch.zeros(3, 5, dtype=torch.int64))
    assert is_classification(None, torch.zeros(3, WORDS, 5), torch.zeros(3, 5, dtype=torch.int64))


def test_a_loss_of_the_user_gets_the_outputs_without_the_cache() -> None:
    def loss(outputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        assert list(outputs) == ["logits"]
        return next_token(outputs, tokens)

    net, tokens = model(), COUNTING.astype(np.int64)
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(net, lr=2e-2)))
    first, second = fit(net, (tokens, tokens), optimizer, epochs=2, loss=loss, batch_size=6).rows
    assert second.train_loss < first.train_loss
    assert evaluate(net, (tokens, tokens), loss=loss).correct is None


def test_inputs_by_name_have_their_own_targets() -> None:
    net, tokens = Keywords(Sign()), torch.from_numpy(COUNTING.astype(np.int64))
    inputs = {"input_ids": tokens, "attention_mask": tokens}
    expected = token_costs(net.eval()(**inputs), tokens)[0].mean()
    assert evaluate(net, (inputs, tokens), loss="next_token").loss == pytest.approx(expected.item())


def test_a_row_without_tokens_that_count_costs_nothing() -> None:
    assert float(next_token(torch.zeros(1, 3, WORDS), torch.full((1, 3), -100))) == 0
