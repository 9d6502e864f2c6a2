"""Test modes, and what an evaluation must not change."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.data import Dataset, Split
from onebit.errors import DataError, UsageError
from onebit.evaluation.forward import predict_logits, try_model
from onebit.evaluation.losses import LOSSES
from onebit.evaluation.modes import evaluate, fixed_weights, parse_weights, reestimate_batch_norm_
from onebit.evaluation.scores import Score, whole_score
from onebit.fold import pack
from onebit.layers import BinaryLinear, InputCoding, binary_layers
from onebit.modules.packed_module import PackedModule
from onebit.quantizers import Quantizer, sign
from support.mode_nets import Bayesian, net, splits
from support.tensors import same, state

__all__ = ["splits"]


def with_weights(model: nn.Module, change: object) -> nn.Module:
    """A real twin of `model` whose weights are change(latent): the test mode done by hand."""
    twin = net(None)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name in ("linear1", "linear2"):
            weight = getattr(twin, name).weight
            weight.copy_(change(weight))  # type: ignore[operator]
    return twin


@torch.no_grad()
def score_by_hand(logits: Tensor, split: Split) -> tuple[int, float]:
    labels = torch.from_numpy(split.labels)
    return int((logits.argmax(1) == labels).sum()), float(F.cross_entropy(logits, labels))


# --------------------------------------------------------------------------------------------------------- test modes
def test_test_modes_are_parsed_and_unknown_ones_refused() -> None:
    assert [parse_weights(text) for text in ("latent", "ensemble:7")] == [("latent", 1), ("sample", 7)]
    for text in ("", "binaries", "ensemble:0", "ensemble:-1", "packed "):
        with pytest.raises(UsageError, match="weights"):
            parse_weights(text)


@pytest.mark.parametrize(("quantizer", "mode"), [("sign", "real"), ("sign", "mean"), ("ste_sign", "sample")])
def test_a_mode_that_a_net_does_not_have_is_refused(splits: tuple[Split, Split], quantizer: str, mode: str) -> None:
    with pytest.raises(UsageError, match=mode):
        evaluate(net(quantizer), splits[1], weights=mode, bn="trained")


class Halved(Quantizer):
    """A quantizer whose inherited `decompose` lacks the scale of its forward."""

    def forward(self, latent: Tensor) -> Tensor:
        return 0.5 * sign(latent)


def test_a_quantizer_that_ships_other_weights_than_it_computes_is_named(splits: tuple[Split, Split]) -> None:
    with pytest.warns(UserWarning, match="Halved"):
        evaluate(net(Halved), splits[1], bn="trained")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "loss"), [("latent", "cross_entropy"), ("binary", "squared_hinge"), ("mean", "cross_entropy")]
)
def test_modes_without_draws_equal_a_plain_net_with_their_weights(
    splits: tuple[Split, Split], mode: str, loss: str
) -> None:
    model, test = net(Bayesian), splits[1]  # type: ignore[arg-type]
    twin = with_weights(model, {"latent": torch.clone, "binary": sign, "mean": torch.tanh}[mode])
    logits = twin(torch.from_numpy(test.images)).detach()
    score = evaluate(model, test, weights=mode, loss=loss, batch_size=32, bn="trained")
    assert (score.weights, score.bn, score.count) == (mode, "trained", 90)
    assert score.correct == score_by_hand(logits, test)[0]
    assert score.loss == pytest.approx(float(LOSSES[loss](logits, torch.from_numpy(test.labels))), rel=1e-5)
    assert score.accuracy + score.error == 1


def test_the_statistics_of_a_dataset_are_of_its_training_split(splits: tuple[Split, Split]) -> None:
    model, (train, test) = net("stochastic"), splits
    data = Dataset("own", train, train[:0], test, tuple("abcd"))
    assert evaluate(model, data, weights="sample", train=data) == evaluate(model, test, weights="sample", train=train)
    assert evaluate(model, data, weights="sample", train=data) != evaluate(model, test, weights="sample", train=test)


def test_the_text_and_the_values_of_a_score() -> None:
    score = Score("binary", "trained", 9_783, 10_000, 0.1, 0.25, (30.0, -70.0))
    assert str(score) == "97.83 % (9,783 of 10,000; binary weights)"
    counts = {"weights": "binary", "bn": "trained", "correct": 9_783, "count": 10_000, "loss": 0.1, "entropy": 0.25}
    assert score.as_dict() == counts | {"accuracy": 0.9783, "error": pytest.approx(0.0217), "ece": 0.01}


def test_the_scores_of_parts_are_the_score_of_the_whole(splits: tuple[Split, Split]) -> None:
    model, test = net(), splits[1]
    parts = [evaluate(model, test[part]) for part in (slice(0, 20), slice(20, 21), slice(21, 90))]
    whole = evaluate(model, test)
    joined = whole_score([*parts, None])
    assert (joined.correct, joined.count) == (whole.correct, whole.count)
    for name in ("loss", "entropy", "ece"):
        assert getattr(joined, name) == pytest.approx(getattr(whole, name), rel=1e-5)
    assert joined.ece != pytest.approx(sum(part.ece * part.count for part in parts) / 90)  # no mean of the parts


@pytest.mark.parametrize("quantizer", ["sign", "stochastic"])
def test_a_sample_is_one_draw_from_the_seed(splits: tuple[Split, Split], quantizer: str) -> None:
    model, test = net(quantizer), splits[1]
    generator = torch.Generator().manual_seed(5)
    draws = [layer.weight_quantizer.sample(layer.weight, generator=generator) for _, layer in binary_layers(model)]
    weights = iter([draw.dense() for draw in draws])
    twin = with_weights(model, lambda w: next(weights))
    correct, loss = score_by_hand(twin(torch.from_numpy(test.images)).detach(), test)
    score = evaluate(model, test, weights="sample", seed=5, bn="trained")
    assert score.correct == correct
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert evaluate(model, test, weights="sample", seed=5, bn="trained") == score
    assert evaluate(model, test, weights="sample", seed=6, bn="trained").loss != score.loss


def test_an_ensemble_is_the_mean_softmax_of_its_draws(splits: tuple[Split, Split]) -> None:
    model, test = net("stochastic"), splits[1]
    generator = torch.Generator().manual_seed(2)
    mean = torch.zeros(90, 4)
    for _ in range(5):
        with fixed_weights(model, "sample", generator=generator):
            mean += predict_logits(model, torch.from_numpy(test.images)).softmax(1) / 5
    labels = torch.from_numpy(test.labels)
    score = evaluate(model, test, weights="ensemble:5", seed=2, bn="trained")
    assert score.weights == "ensemble:5"
    assert score.correct == int((mean.argmax(1) == labels).sum())
    assert score.loss == pytest.approx(float(F.nll_loss(mean.log(), labels)), rel=1e-4)
    hinge = evaluate(model, test, weights="ensemble:5", seed=2, bn="trained", loss="squared_hinge")
    assert hinge.loss == score.loss  # a mean of probabilities has no margins


def test_modes_of_real_and_packed_nets(splits: tuple[Split, Split]) -> None:
    real, model = net(None), net()
    correct, _ = score_by_hand(real(torch.from_numpy(splits[1].images)).detach(), splits[1])
    packed = PackedModule(pack(model))
    scores = [evaluate(one, splits[1], weights="binary") for one in (real, packed, nn.Sequential(packed))]
    assert [score.weights for score in scores] == ["real", "packed", "packed"]
    assert {score.bn for score in scores} == {"trained"}
    assert [score.correct for score in scores] == [correct, *2 * [evaluate(model, splits[1]).correct]]
    assert "packed weights" in str(scores[1])


@pytest.mark.parametrize(
    ("mode", "bn", "training"),
    [("latent", "reestimate", True), ("binary", "trained", True), ("ensemble:2", "reestimate", False)],
)
def test_an_evaluation_does_not_change_the_model(
    splits: tuple[Split, Split], mode: str, bn: str, training: bool
) -> None:
    model = net("stochastic").train(training)
    before, rng = state(model), torch.get_rng_state()
    evaluate(model, splits[1], weights=mode, train=splits[0], bn=bn)
    assert same(state(model), before)
    assert all(module.training is training for module in model.modules())
    assert all(layer.fixed_weight is None for _, layer in binary_layers(model))
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.norm1.momentum == 0.1


def test_fixed_weights_end_with_their_context_even_after_an_error() -> None:
    model = net()
    with pytest.raises(RuntimeError), fixed_weights(model, "latent"):
        model(torch.zeros(1, 1, 3, 3, dtype=torch.uint8))  # of another shape
    assert all(layer.fixed_weight is None for _, layer in binary_layers(model))


@pytest.mark.parametrize("options", [{"bn": "retrained"}, {"bn": "reestimate"}, {"loss": "hing"}])
def test_wrong_options_are_refused(splits: tuple[Split, Split], options: dict) -> None:
    with pytest.raises(UsageError):
        evaluate(net(), splits[1], **options)
    with pytest.raises(UsageError, match="samples"):
        evaluate(net(), splits[1][:0])


# ---------------------------------------------------------------------------------------------------------------- rest
@pytest.mark.parametrize("batch_size", [7, 89, 1000])
def test_logits_do_not_depend_on_the_batch_size(splits: tuple[Split, Split], batch_size: int) -> None:
    model, images = net().train(), torch.from_numpy(splits[1].images)
    logits = predict_logits(model, images, batch_size=batch_size)
    torch.testing.assert_close(logits, copy.deepcopy(model).eval()(images))
    assert model.training
    assert not logits.requires_grad
    model.norm1.eval()
    predict_logits(model, images, batch_size=batch_size)
    reestimate_batch_norm_(model, images)
    assert (model.training, model.norm1.training) == (True, False), "each module keeps its own mode"


def test_progress_counts_the_images_of_all_draws(splits: tuple[Split, Split]) -> None:
    train, test = splits
    seen: list[tuple[int, int]] = []
    evaluate(net(), test, weights="ensemble:2", train=train, batch_size=32, on_images=lambda *n: seen.append(n))
    assert seen[-1] == (2 * len(test), 2 * len(test))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {2 * len(test)}


def test_outputs_that_are_not_finite_have_no_accuracy() -> None:
    model = nn.Sequential(BinaryLinear(6, 3), nn.Linear(3, 3))
    nn.init.constant_(model[1].bias, torch.nan)
    with pytest.raises(DataError, match="loss"):
        evaluate(model, (torch.randn(8, 6), torch.arange(8) % 3), verbose=False)


def test_contexts_of_test_modes_nest() -> None:
    model, x = net("stochastic"), 255 * torch.rand(3, 1, 8, 8)
    binary = model(x)
    with fixed_weights(model, "latent"):
        latent = model(x)
        with fixed_weights(model, "binary"):
            assert torch.equal(model(x), binary)
        evaluate(model, (x, torch.zeros(3, dtype=torch.long)), bn="trained")
        assert torch.equal(model(x), latent)
        with pytest.raises(UsageError), fixed_weights(model, "mean"):
            pass
        assert torch.equal(model(x), latent)
        assert torch.equal(copy.deepcopy(model)(x), binary)
    assert not torch.equal(latent, binary)
    assert torch.equal(model(x), binary)


def test_threads_that_evaluate_one_model_take_turns() -> None:
    model, x = net("stochastic"), 255 * torch.rand(40, 1, 8, 8)
    data = x, torch.arange(40) % 4
    alone = {mode: evaluate(model, data, weights=mode, bn="trained").loss for mode in ("binary", "latent")}
    assert len(set(alone.values())) == 2
    found: dict[str, float] = {}
    inside = threading.Event()

    def run(mode: str) -> None:
        def wait(done: int, total: int) -> None:
            inside.set()  # the other thread begins while this one has batches to come
            time.sleep(0.02)

        found[mode] = evaluate(model, data, weights=mode, bn="trained", batch_size=10, on_images=wait).loss

    threads = [threading.Thread(target=run, args=(mode,)) for mode in alone]
    threads[0].start()
    inside.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert found == pytest.approx(alone)
    assert all(layer.fixed_weight is None for _, layer in binary_layers(model))


def test_an_autocast_of_the_caller_does_not_change_a_score(splits: tuple[Split, Split]) -> None:
    model = net("stochastic")
    expected = evaluate(model, splits[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert evaluate(model, splits[1]) == expected


def test_the_check_of_a_model_draws_nothing_and_changes_no_mode() -> None:
    model = nn.Sequential(InputCoding(), nn.Flatten(), nn.Dropout(0.5).eval(), nn.Linear(64, 4))
    before = torch.get_rng_state()
    try_model(model, torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model] == [True, True, False, True]


def test_an_evaluation_between_forward_and_backward_leaves_the_gradient() -> None:
    model = nn.Sequential(BinaryLinear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval()
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    value = F.cross_entropy(model(x), y)
    evaluate(model, (x, y))
    value.backward()  # torch refuses it if a buffer was written
    assert model[0].weight.grad is not None


def test_a_model_that_reads_latents_causes_a_warning() -> None:
    class ReadsItself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = BinaryLinear(6, 6), BinaryLinear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.a(x), self.fc.weight)

    model, data = ReadsItself(), (torch.randn(4, 6), torch.zeros(4, dtype=torch.long))
    with pytest.warns(UserWarning, match="fc") as found:
        evaluate(model, data)
    assert len(found) == 1
    evaluate(model, data, weights="latent", bn="trained")
    evaluate(nn.Sequential(model.a, model.fc), data)
