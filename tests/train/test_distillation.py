"""Learning from a teacher: the loss, what `fit` makes of it, resuming, and teachers that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.data import VOID
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.forward import predict_logits
from onebit.evaluation.losses import cross_entropy, distillation, next_token, token_distillation
from onebit.evaluation.modes import evaluate
from onebit.fold import pack
from onebit.modules.packed_module import PackedModule
from onebit.train.distillation import Teacher
from onebit.train.loop import fit
from support.toy_training import CASES, DATA, Case, Stop, build, everything, flat, stop_after_epoch, toy_data


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    """A full-precision net that knows the toy patterns."""
    toy = build(Case(None, loss="cross_entropy"))
    toy.fit(DATA)
    return toy.model


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 4, 4)])
def test_the_loss_is_the_divergence_from_the_teacher(shape: tuple[int, ...], temperature: float) -> None:
    torch.manual_seed(0)
    logits, taught = torch.randn(2, *shape, dtype=torch.float64)
    p, q = ((x / temperature).movedim(1, -1).flatten(0, -2).log_softmax(1) for x in (logits, taught))
    expected = temperature**2 * F.kl_div(p, q, log_target=True, reduction="batchmean")
    found = distillation(logits, taught, temperature=temperature)
    torch.testing.assert_close(found, expected)
    assert float(distillation(taught, taught)) == pytest.approx(0, abs=1e-12)


def test_weight_shares_the_loss_with_the_labels(teacher: nn.Module) -> None:
    images, labels = torch.from_numpy(DATA.train.images[:8]), torch.from_numpy(DATA.train.labels[:8])
    logits, taught = torch.randn(8, 4), teacher(images).detach()
    asked = Teacher(teacher, weight=0.3, temperature=2.0)
    found = asked.loss(cross_entropy, logits, labels, images=images, precision="fp32")
    expected = 0.7 * cross_entropy(logits, labels) + 0.3 * distillation(logits, taught, temperature=2.0)
    torch.testing.assert_close(found, expected)


def test_pixels_without_a_class_do_not_count() -> None:
    torch.manual_seed(0)
    images, masks = torch.randn(2, 1, 4, 4), torch.randint(3, (2, 4, 4)).to(torch.uint8)
    masks[0, 1:] = VOID
    model = nn.Conv2d(1, 3, 1)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    known = (masks != VOID).flatten()
    mine, taught = (x.movedim(1, -1).flatten(0, -2)[known] for x in (logits, model(images).detach()))
    found = Teacher(model).loss(cross_entropy, logits, masks, images=images, precision="fp32")
    torch.testing.assert_close(found, distillation(mine, taught))
    nothing = Teacher(model).loss(cross_entropy, logits, masks * 0 + VOID, images=images, precision="fp32")
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert (float(nothing.detach()), float(gradient.abs().max())) == (0, 0)


class Bigrams(nn.Module):
    """A language model: the logits of the next token depend on the last one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(7, 7)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"logits": self.table(tokens.clamp(min=0))}


TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100], [3, 2, 1, 0], [0, 6, 5, -100]])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_tokens_that_count_are_taught(temperature: float) -> None:
    student, taught = Bigrams(0), Bigrams(1)
    rows = [(student(TOKENS)["logits"], taught(TOKENS)["logits"])]
    mine, theirs = (torch.cat([x[n, :last] for n, last in enumerate((3, 1, 3, 2))]) for x in rows[0])
    found = token_distillation(*rows[0], TOKENS, temperature=temperature)
    torch.testing.assert_close(found, distillation(mine, theirs, temperature=temperature))
    assert float(token_distillation(*rows[0], TOKENS * 0 - 100).detach()) == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_language_model_learns_from_labels_and_teacher(accumulate: int) -> None:
    student, taught = Bigrams(0), Bigrams(1)
    logits, theirs = student(TOKENS)["logits"], taught(TOKENS)["logits"].detach()
    distilled = token_distillation(logits, theirs, TOKENS, temperature=2.0)
    expected = torch.autograd.grad(0.7 * next_token(logits, TOKENS) + 0.3 * distilled, student.table.weight)[0]
    before = student.table.weight.detach().clone()
    fit(
        student, TOKENS, torch.optim.SGD(student.parameters(), lr=1.0), epochs=1, loss="next_token", batch_size=4,
        accumulate=accumulate, teacher=Teacher(taught, weight=0.3, temperature=2.0), precision="fp32",
    )  # fmt: skip
    torch.testing.assert_close(before - student.table.weight.detach(), expected)


def test_a_net_learns_from_the_teacher_alone(teacher: nn.Module) -> None:
    """The labels are left out: they may be wrong."""
    wrong = toy_data()
    wrong.train.labels[:] = 0
    before = flat(teacher.state_dict())
    toy = build(CASES["sign"])
    toy.fit(wrong, teacher=teacher.train(), epochs=8)
    assert evaluate(toy.model, DATA.test).accuracy > 0.7  # of four classes
    assert not teacher.training
    assert flat(teacher.state_dict()) == before  # also the statistics of its BatchNorm
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_sees_the_augmented_batch_and_its_parts_in_the_precision_of_training(teacher: nn.Module) -> None:
    seen: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    toy = build(CASES["augmentation"])
    hooks = [
        teacher.register_forward_pre_hook(lambda m, x: seen["teacher"].append(x[0].clone())),
        toy.model.register_forward_pre_hook(lambda m, x: seen["student"].append(x[0].clone()) if m.training else None),
        teacher.register_forward_hook(lambda m, x, y: seen.setdefault("dtype", []).append(y)),
    ]
    toy.fit(DATA, teacher=teacher, epochs=1, precision="bf16", accumulate=2)
    for hook in hooks:
        hook.remove()
    assert len(seen["teacher"]) == 8
    for ours, theirs in zip(seen["teacher"], seen["student"], strict=False):
        assert torch.equal(ours, theirs)
    assert not any(y.requires_grad for y in seen["dtype"])
    assert {y.dtype for y in seen["dtype"]} == {torch.bfloat16}


class Rescaled(nn.Module):
    """A teacher that changes its inputs in place, or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place, self.layer = in_place, nn.Linear(6, 2)
        nn.init.constant_(self.layer.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mul_(3) if self.in_place else x * 3)


def test_a_teacher_that_changes_its_inputs_leaves_the_students_alone() -> None:
    x, y = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2
    losses = []
    for in_place in (True, False):
        torch.manual_seed(0)
        model, teacher = nn.Linear(6, 2), Rescaled(in_place)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        history = fit(model, (x.clone(), y), optimizer, epochs=2, batch_size=32, teacher=teacher, samples=2)
        losses.append([row.train_loss for row in history])
    assert losses[0] == losses[1]


def test_a_packed_net_teaches_as_the_net_it_was_packed_from() -> None:
    binary = build(CASES["sign"])
    binary.fit(DATA)
    packed = PackedModule(pack(binary.model, input_shape=DATA.input_shape))
    images = torch.from_numpy(DATA.test.images)
    torch.testing.assert_close(Teacher(packed).predict(images), predict_logits(binary.model, DATA.test.images))
    first, again = build(Case(None)), build(Case(None))
    first.fit(DATA, teacher=binary.model)
    again.fit(DATA, teacher=packed)
    expected = predict_logits(first.model, DATA.test.images)
    torch.testing.assert_close(predict_logits(again.model, DATA.test.images), expected, rtol=1e-3, atol=1e-3)


def test_distillation_resumes_bit_for_bit_and_refuses_another_teacher(tmp_path: Path, teacher: nn.Module) -> None:
    asked = Teacher(teacher, weight=0.5, temperature=3.0)
    build(CASES["stochastic dropout"]).fit(DATA, tmp_path / "whole", teacher=asked)
    with pytest.raises(Stop):
        build(CASES["stochastic dropout"]).fit(DATA, tmp_path / "parts", teacher=asked, on_epoch=stop_after_epoch(1))
    for other in (None, teacher, Teacher(build(Case(None)).model, weight=0.5, temperature=3.0)):
        with pytest.raises(CheckpointError, match="teacher"):
            build(CASES["stochastic dropout"]).fit(DATA, tmp_path / "parts", teacher=other, resume=True)
    build(CASES["stochastic dropout"]).fit(DATA, tmp_path / "parts", teacher=asked, resume=True)
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_a_teacher_of_anything_but_classes_is_refused(loss: str) -> None:
    model = nn.Linear(4, 2)
    data = torch.rand(20, 4), torch.rand(20, 2).round()
    with pytest.raises(UsageError, match="teacher"):
        fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), epochs=1, loss=loss, teacher=nn.Linear(4, 2))


@pytest.mark.parametrize("name", ["weight", "temperature"])
def test_settings_out_of_range_are_refused(teacher: nn.Module, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        Teacher(teacher, **{name: 0})


def test_a_teacher_leaves_the_random_streams_alone(teacher: nn.Module) -> None:
    """A teacher of nearly no weight leaves draws, order and augmentation as they are."""
    without = build(CASES["stochastic dropout"])
    without.fit(DATA, loss="cross_entropy")
    beside = build(CASES["stochastic dropout"])
    beside.fit(DATA, loss="cross_entropy", teacher=Teacher(teacher, weight=1e-30))
    images = DATA.test.images
    torch.testing.assert_close(predict_logits(beside.model, images), predict_logits(without.model, images))
