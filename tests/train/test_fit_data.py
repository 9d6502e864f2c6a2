"""Training on data of every form: what is learned, its order, resuming, tasks, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_data import (
    EPOCHS,
    LABELS,
    VALUES,
    Augmented,
    SizedStream,
    Stream,
    X,
    Y,
    loader,
    net,
    same,
    tensors,
    train,
    trained,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, Sampler, Subset, TensorDataset, WeightedRandomSampler
from toy_training import Stop, stop_after_epoch, toy_data

import onebit
from onebit.data import Augmentation
from onebit.data.decoding import default_workers
from onebit.errors import CheckpointError, DataError, OnebitError, TrainingError, UsageError, WrongTypeError
from onebit.evaluation.batches import batch_bounds
from onebit.layers import BinaryLinear
from onebit.train.feeds import ArrayFeed, LoaderFeed
from onebit.train.fit_data import fit_data
from onebit.train.ranks import Ranks

FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "data set": tensors,
    "augmented": Augmented,
    "loader": loader,
    "workers": lambda: loader(Augmented(), num_workers=min(2, default_workers())),
    "drop": lambda: loader(drop_last=True),
    "in order": lambda: loader(shuffle=False),
    "weighted": lambda: loader(shuffle=False, sampler=WeightedRandomSampler([1.0] * 83, 60)),
    "own generator": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "batches": lambda: DataLoader(
        tensors(), batch_sampler=torch.utils.data.BatchSampler(RandomSampler(tensors()), 9, False)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_and_resumes_bit_for_bit(form: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "validation": FORMS["augmented" if form == "workers" else form](),  # workers start anew in each epoch
        "batch_size": 20 if form in ("arrays", "data set") else None,
    }
    whole = trained(FORMS[form](), seed=3, **options)
    with pytest.raises(Stop):
        train(FORMS[form](), tmp_path, seed=3, on_epoch=stop_after_epoch(2), **options)
    torch.rand(7)  # what happens between the two does not matter
    np.random.default_rng().random()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="on resume only the number of samples")
        assert same(trained(FORMS[form](), tmp_path, seed=3, resume=True, **options), whole)
    assert not same(trained(FORMS[form](), seed=4, **options), whole)


def test_arrays_and_tensors_train_alike_and_learn() -> None:
    one, other = (net() for _ in range(2))
    rows = train((X, Y), model=one, validation=(X, Y), epochs=30, batch_size=20).rows
    train((torch.from_numpy(X), torch.from_numpy(Y)), model=other, epochs=30, batch_size=20)
    assert same(one.state_dict(), other.state_dict())
    assert rows[-1].validation_error is not None
    assert rows[-1].validation_error < 0.2 < rows[0].train_error  # type: ignore[operator]
    assert onebit.evaluate(one, (X, Y)).error == pytest.approx(rows[-1].validation_error)


def test_images_of_a_pair_train_as_those_of_a_data_set() -> None:
    data = toy_data()
    model = {name: torch.nn.Sequential(onebit.InputCoding(), nn.Flatten(), nn.Linear(64, 4)) for name in "abc"}
    for each in model.values():
        each.load_state_dict(model["a"].state_dict())
    pair, held_out = (data.train.images, data.train.labels), (data.validation.images, data.validation.labels)
    augmentation = Augmentation(crop_padding=1, flip=True)
    histories = [
        train(given, model=model[name], validation=validation, augmentation=augmentation, batch_size=32)
        for name, given, validation in (("a", data, None), ("b", pair, held_out), ("c", data.train, data.validation))
    ]
    assert same(model["a"].state_dict(), model["b"].state_dict())
    assert same(model["a"].state_dict(), model["c"].state_dict())
    assert len({tuple(row.validation_error for row in history) for history in histories}) == 1


def test_the_generators_of_the_user_are_put_back() -> None:
    own = torch.Generator().manual_seed(5)
    data = loader(generator=own)
    before, state = own.get_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    train(data, epochs=1)
    assert data.generator is data.sampler.generator is own  # type: ignore[attr-defined]
    assert torch.equal(own.get_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[index]


FEEDS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: ArrayFeed(fit_data((X, Y)).train, batch_bounds(83, 20), torch.device("cpu"), 0, Ranks()),  # type: ignore[arg-type]
    "loader": lambda: LoaderFeed(fit_data(loader()).train, torch.device("cpu"), 0, Ranks()),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("form", FEEDS)
def test_each_epoch_has_its_own_order_and_every_sample(form: str) -> None:
    feed = FEEDS[form]()
    orders = [torch.cat([x[:, 0] for x, _, _ in feed.epoch(epoch, steps=5)]) for epoch in (1, 2, 1)]
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0].sort().values, orders[1].sort().values)
    assert len(orders[0]) == 83


# ------------------------------------------------------------------------------------------------------------ resuming
def test_other_data_are_refused_on_resume(tmp_path: Path) -> None:
    for name, first, second in (
        ("arrays", (X, Y), (X + 1e-3, Y)),
        ("targets", (X, Y), (X, (Y + 1) % 3)),
        ("loader", loader(), loader(TensorDataset(torch.from_numpy(X[::-1].copy()), torch.from_numpy(Y)))),
        ("length", loader(Augmented()), loader(Subset(Augmented(), range(79)))),
        ("first samples", loader(Subset(Augmented(), range(79))), loader(Subset(Augmented(), range(1, 80)))),
    ):
        with pytest.raises(Stop):
            train(first, tmp_path / name, on_epoch=stop_after_epoch(1))
        with pytest.raises(CheckpointError, match=r"was trained (on other images or labels|with)") as caught:
            train(second, tmp_path / name, resume=True)
        assert "\n" not in str(caught.value)


def test_what_a_resume_does_not_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(loader(Augmented()), tmp_path, on_epoch=stop_after_epoch(1))
    with pytest.warns(UserWarning, match="on resume only the number of samples and the first ones are compared"):
        train(loader(Augmented()), tmp_path, resume=True)


class Shuffled(Sampler):
    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng().permutation(83).tolist())

    def __len__(self) -> int:
        return 83


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: loader(shuffle=False, sampler=Shuffled()), "the order of Shuffled cannot be seeded"),
        (lambda: DataLoader(Stream(), 20), "the order of an iterable data set is its own"),
        (lambda: loader(num_workers=1, persistent_workers=True), "persistent workers keep the state"),
    ],
)
def test_what_cannot_be_promised_is_said_once(make: Callable[[], DataLoader], reason: str) -> None:
    with pytest.warns(UserWarning, match=f"two training runs on this loader may differ.*{reason}") as caught:
        train(make(), epochs=2)
    assert len(caught) == 1


# --------------------------------------------------------------------------------------------------------------- tasks
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_regression_has_loss_and_metrics_and_no_error(loss: str, tmp_path: Path) -> None:
    model = net()
    history = train((X, VALUES), tmp_path, model=model, loss=loss, validation=(X, VALUES), epochs=30, batch_size=20)
    first, last = history.rows[0], history.rows[-1]
    assert first.train_error is last.validation_error is None
    assert last.validation_loss < 0.75 * first.train_loss  # type: ignore[operator]
    assert set(last.validation_metrics) == set(last.train_metrics) == {"r2", "mae"}
    assert last.validation_metrics["r2"] > 0.5 > first.train_metrics["r2"]
    assert history.best.validation_loss == min(row.validation_loss for row in history)  # type: ignore[type-var]
    assert history.best.best == history.best.validation_loss
    score = onebit.evaluate(model, (X, VALUES), loss=loss)
    assert score.loss == pytest.approx(last.validation_loss)
    assert score.metrics == pytest.approx(last.validation_metrics)
    stored = onebit.train.history.History.from_rows(history.texts)
    assert stored == history
    assert (tmp_path / "best.safetensors").exists()


def test_several_labels_per_sample() -> None:
    history = train((X, LABELS), loss="bce", validation=(X, LABELS), epochs=30, batch_size=20)
    assert set(history.rows[-1].validation_metrics) == {"f1", "exact_match"}
    assert history.rows[-1].validation_metrics["f1"] > 0.85 > history.rows[0].validation_metrics["f1"]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = net(8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.body(x)
        return self.kind(seen), self.size(seen)


def both(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs[0], targets[0]) + nn.functional.mse_loss(outputs[1], targets[1])


def right(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> float:
    return float((outputs[0].argmax(1) == targets[0]).double().mean())


def test_a_net_with_several_outputs_and_the_loss_of_the_user(tmp_path: Path) -> None:
    data = [(x, (int(y), v[:1])) for x, y, v in zip(X, Y, VALUES, strict=True)]

    def run(folder: Path | None = None, **options: Any) -> tuple[nn.Module, Any]:
        model = TwoHeads()
        given: Any = DataLoader(data, 20, shuffle=True)  # type: ignore[arg-type]
        return model, train(
            given, folder, model=model, loss=both, metric=right, validation=given, accumulate=2, **options
        )

    model, history = run(epochs=20)
    assert history.rows[-1].validation_metrics["right"] > 0.5
    assert history.rows[-1].validation_loss < 0.8 * history.rows[0].train_loss
    assert onebit.evaluate(model, DataLoader(data, 9), loss=both, metric=right).metrics == {  # type: ignore[arg-type]
        "right": pytest.approx(history.rows[-1].validation_metrics["right"])
    }


class OwnBatches(Sampler[list[int]]):
    """Batches of a sampler of the user, which does not say how many samples they have."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.arange(80).view(4, 20).tolist())

    def __len__(self) -> int:
        return 4


@pytest.mark.filterwarnings("ignore:two training runs on this loader may differ")
def test_parts_of_batches_of_unknown_size_are_taken() -> None:
    assert np.isfinite(train(DataLoader(tensors(), batch_sampler=OwnBatches()), accumulate=4).rows[-1].train_loss)
    batches = [(torch.from_numpy(X[:20]), torch.from_numpy(Y[:20]))] * 3
    assert np.isfinite(train(DataLoader(batches, batch_size=None), accumulate=4).rows[-1].train_loss)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a batch_size of 20 has at most 10 parts"):
        train(loader(), accumulate=11)


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    history = train((X, VALUES), tmp_path, loss="mse")
    assert history.best is history.rows[-1]
    assert history.best.best is None
    assert "validation" not in str(history)
    assert history.outline[0].endswith(f"last loss {history.rows[-1].train_loss:.4f}")
    assert not (tmp_path / "best.safetensors").exists()
    assert "validation error" not in str(train((X, Y)))


def test_half_an_epoch_of_a_loader_and_a_loader_without_length() -> None:
    assert train(loader(), epochs=0.4).rows[-1].step == 2
    with pytest.warns(UserWarning, match="two training runs on this loader may differ"):
        history = train(DataLoader(Stream(), 20), epochs=3)
    assert [row.step for row in history] == [5, 10, 15]


# ----------------------------------------------------------------------------------------------- plain torch programs
class Viewing(nn.Module):
    """A plain CNN that flattens with `view`, which channels_last activations refuse."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.last = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 1, 64).view(len(x), 1, 8, 8).float()
        x = self.net(x)
        return self.last(x.view(len(x), -1))


@pytest.mark.parametrize("form", ["data set", "split", "pair", "floats", "loader"])
def test_a_net_that_flattens_with_view_trains_and_is_evaluated(form: str) -> None:
    data = toy_data()
    images, labels = data.train.images, data.train.labels
    forms: dict[str, Any] = {
        "data set": data,
        "split": data.train,
        "pair": (images, labels),
        "floats": (images / 255.0, labels),
        "loader": loader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))),
    }
    model = Viewing()
    train(forms[form], model=model, epochs=1)
    onebit.evaluate(model, forms[form])
    assert Viewing()(torch.from_numpy(images)).shape == (129, 4)


# ------------------------------------------------------------------------------------------------------------- refused
def holed(x: Any, row: int) -> Any:
    x = np.array(x, np.float32)
    x[row, 1] = np.nan
    return x


def pairs(x: Any, y: Any) -> TensorDataset:
    return TensorDataset(torch.from_numpy(np.asarray(x)), torch.from_numpy(np.asarray(y)))


def late(y: Any, value: int) -> Any:
    y = y.copy()
    y[70] = value
    return y


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "features": (lambda: (X[:, :5], Y), {}, r"does not take the inputs float32 \(83, 5\) .*takes 12 features"),
    "double": (lambda: loader(pairs(X.astype(np.float64), Y)), {}, "inputs float64 .*convert the inputs with"),
    "a validation of another kind": (lambda: (X, Y), {"validation": (X[:, :5], Y)}, r"\(83, 5\) of validation"),
    "too many labels": (lambda: (X, Y), {"validation": (X, Y + 1)}, "labels: got 3, the model has 3 logits for"),
    "a late label": (lambda: (X, late(Y, 10)), {}, r"labels: got 10, the model has 3 logits for the labels 0..2"),
    "a late label of a loader": (lambda: loader(pairs(X, late(Y, 10))), {}, "labels: got 10, the model has 3 logits"),
    "a late label, hinge": (lambda: loader(pairs(X, late(Y, -4))), {"loss": "hinge"}, "labels: got -4"),
    "floats": (lambda: (X, VALUES), {}, 'classification: .* loss="mse"'),
    "integers": (lambda: (X, Y), {"loss": "mse"}, r"regression: .* targets.float\(\)"),
    "NaN": (lambda: (holed(X, 70), Y), {"batch_size": 20}, "the inputs hold NaN, the first in sample 70"),
    "NaN of a loader": (lambda: loader(pairs(holed(X, 70), Y)), {}, "the inputs hold NaN, the first in sample 70"),
    "NaN at once": (lambda: loader(pairs(holed(X, 2), Y)), {}, "the inputs hold NaN, the first in sample 2"),
    "NaN targets": (lambda: (X, holed(VALUES, 70)), {"loss": "mse"}, "the targets hold NaN, the first in sample 70"),
    "NaN targets of a loader": (lambda: loader(pairs(X, holed(VALUES, 70))), {"loss": "mse"}, "the targets hold NaN"),
    "a batch size twice": (loader, {"batch_size": 10}, "batch_size=10 and a DataLoader with batches of 20"),
    "too large a batch": (lambda: (X, Y), {"batch_size": 84}, "batch_size is 84, more than the 83"),
    "one sample left": (lambda: loader(Subset(tensors(), range(41))), {}, "a batch of 1 sample, BatchNorm needs two"),
    "no targets": (lambda: X, {}, "got inputs without targets"),
    "a loader without targets": (lambda: loader(X), {}, "got inputs without targets"),
    "three parts": (lambda: DataLoader([(X[0], 1, 2)] * 40, 20), {}, "a list of 3, expected a pair"),
    "an empty loader": (lambda: loader(batch_size=84, drop_last=True), {}, "the loader is empty"),
    "no samples": (lambda: (X[:0], Y[:0]), {}, "there are no samples"),
    "augmentation": (lambda: (X, Y), {"augmentation": Augmentation(flip=True)}, "augmentation changes uint8 images"),
    "a name": (lambda: "mnist", {}, "got 'mnist', expected a DataLoader"),
    "a metric": (lambda: (X, Y), {"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
    "nothing to train": (loader, {"epochs": 0.01}, "nothing to train: 5 batches, 0.01 epochs"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_in_one_line(case: str) -> None:
    make, options, message = BAD[case]
    with pytest.raises((UsageError, DataError), match=message) as caught:
        train(make(), **options)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OnebitError)


@pytest.mark.parametrize("returned", [None, "a", torch.ones(3), torch.ones((), dtype=torch.int64)], ids=repr)
def test_a_loss_that_returns_no_scalar_is_refused_in_one_line(returned: Any) -> None:
    def own(outputs: Tensor, targets: Tensor) -> Any:
        return returned

    with pytest.raises(WrongTypeError, match=r"loss own: returned .*, expected a scalar tensor: the mean over"):
        train((X, Y), loss=own)
    with pytest.raises(WrongTypeError, match=r"loss own: returned .*, expected a scalar tensor"):
        onebit.evaluate(net(), (X, Y), loss=own)


@pytest.mark.parametrize("returned", [1.0, torch.ones(())], ids=repr)
def test_a_loss_without_a_gradient_is_refused_in_one_line(returned: Any) -> None:
    with pytest.raises(TrainingError, match="the loss does not depend on any parameter that is trained"):
        train((X, Y), loss=lambda outputs, targets: returned)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_hinge", "hinge"])
@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int16, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool]
)
def test_labels_of_every_integer_type_train_alike(loss: str, dtype: torch.dtype) -> None:
    labels = torch.from_numpy(Y % 2).to(dtype)
    expected = trained(loader(pairs(X, Y % 2)), loss=loss, epochs=1)
    assert same(trained(loader(TensorDataset(torch.from_numpy(X), labels)), loss=loss, epochs=1), expected)
    assert same(trained((X, labels.numpy()), loss=loss, epochs=1), trained((X, Y % 2), loss=loss, epochs=1))


def test_arrays_of_every_layout_train_alike() -> None:
    expected = trained((X, Y), epochs=1)
    fixed = X.copy()
    fixed.setflags(write=False)
    for x, y in (
        (X.astype(">f4"), Y.astype(">i4")),
        (X[::-1].copy()[::-1], Y[::-1].copy()[::-1]),
        (np.asfortranarray(X), Y),
        (fixed, Y),
    ):
        assert same(trained((x, y), epochs=1), expected)


class InPlace(nn.Module):
    """Changes its inputs, as `x /= 255` in many a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = net()

    def forward(self, x: Tensor) -> Tensor:
        x /= 2
        return self.fc(x)


def test_a_model_that_works_in_place_leaves_the_data_alone() -> None:
    x, labels = torch.from_numpy(X.copy()), torch.from_numpy(Y)
    for inputs in (x, x.numpy()):
        model = InPlace()
        train((inputs, labels), model=model, epochs=1, validation=(inputs, labels))
        onebit.evaluate(model, (inputs, labels))
        packed = onebit.pack(model.eval(), x[:2], data=(inputs, labels), trained=(inputs, labels))
        found = onebit.verify(model, packed, (inputs, labels), trained=model)
        assert (found.label_mismatches, found.trained_mismatches) == (0, 0)
        assert np.array_equal(x.numpy(), X)


@pytest.mark.parametrize("twice", ["teacher", "samples", "health"])
def test_a_batch_that_is_read_twice_is_that_before_forward_changed_it(twice: str) -> None:
    class Halved(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x / 2)

    outcomes = []
    for kind in (InPlace, Halved):
        options = {"teacher": {"teacher": net()}, "samples": {"samples": 2}, "health": {}}[twice]
        model = kind()
        if twice == "health":  # has the share of inputs beyond ±1
            model.fc.insert(0, BinaryLinear(X.shape[1], X.shape[1], input_quantizer="ste_sign"))
        history = train((X.copy(), Y), model=model, epochs=2, **options)
        assert history.rows[-1].layers
        outcomes.append((history.rows[-1].train_loss, history.rows[-1].layers, model.state_dict()))
    assert outcomes[0][:2] == outcomes[1][:2]
    assert same(outcomes[0][2], outcomes[1][2])


def test_an_autocast_of_the_user_does_not_change_the_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = trained((X, Y), epochs=1)
    assert same(found, trained((X, Y), epochs=1))


def test_a_loss_that_is_no_number_is_not_blamed_on_sound_data() -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * np.nan

    with pytest.raises(TrainingError, match="the loss became nan in epoch 1"):
        train((X, Y), loss=broken)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (lambda: Stream(83, 83, 60), "its length is 5 batches, it gave 3"),
        (lambda: Stream(60, 60), "its length is 3 batches, it gave 4"),
        (lambda: SizedStream(83, 60), "its length is 5 batches, it gave 3"),
        (lambda: Stream(0), "the loader is empty"),
        (lambda: Stream(83, 0), "the loader is empty"),
    ],
)
def test_a_loader_that_changes_its_length_is_refused(stream: Callable[[], Stream], message: str) -> None:
    warnings.filterwarnings(
        "ignore", message="two training runs on this loader may differ"
    )  # pytest restores the filters
    with pytest.raises((DataError, UsageError), match=message):
        train(DataLoader(stream(), 20))


def test_an_iterable_data_set_needs_a_loader() -> None:
    with pytest.raises(WrongTypeError, match="an iterable data set, expected it in a loader"):
        train(Stream())


def test_several_processes_need_a_loader_that_divides_its_samples() -> None:
    def feed(**options: Any) -> LoaderFeed:
        samples: Any = fit_data(loader(shuffle=False, **options)).train
        return LoaderFeed(samples, torch.device("cpu"), 0, Ranks(1, 2))

    with pytest.raises(
        UsageError, match=r"2 processes and a loader that gives each of them all samples: .*Distributed"
    ):
        feed()
    part = torch.utils.data.DistributedSampler(tensors(), num_replicas=2, rank=1)
    divided = feed(sampler=part)
    batches = list(divided.epoch(1, steps=divided.steps))
    assert [(len(x), count) for x, _, count in batches] == [(20, 40), (20, 40), (2, 4)]
    again = torch.cat([x for x, _, _ in divided.epoch(2, steps=divided.steps)])
    assert not torch.equal(again, torch.cat([x for x, _, _ in batches]))
    with pytest.raises(UsageError, match="2 processes and a loader"):
        feed(sampler=torch.utils.data.DistributedSampler(tensors(), num_replicas=2, rank=0))


def test_epochs_are_logged_for_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    train(loader(), validation=(X, Y), verbose=True)
    shown = capsys.readouterr().err
    assert "epoch" in shown
    assert f"{EPOCHS}/{EPOCHS}" in shown
    train(loader(), validation=(X, Y), verbose=False)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_pixels_up_to_1_are_not_those_of_an_input_coding() -> None:
    images, labels = torch.rand(40, 1, 4, 4), torch.arange(40) % 3
    for coding in (onebit.InputCoding(), onebit.InputCoding("standardize", mean=[100.0], std=[50.0])):
        model = nn.Sequential(coding, nn.Flatten(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters())
        with pytest.raises(UsageError, match=r"takes pixels 0–255, data: got numbers up to .*; multiply them by 255"):
            onebit.fit(model, (images, labels), optimizer, epochs=1)
        with pytest.raises(UsageError, match=r"takes pixels 0–255, the inputs: got numbers up to .*; multiply them"):
            onebit.evaluate(model, (images, labels), verbose=False)
        onebit.fit(model, (255 * images, labels), optimizer, epochs=1)
        onebit.evaluate(model, (255 * images, labels), verbose=False)


def test_a_model_may_make_pixels_of_its_inputs() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.coding, self.layer = onebit.InputCoding(), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.coding(255 * x).flatten(1))

    model, data = Scaled(), (torch.rand(40, 1, 4, 4), torch.arange(40) % 3)
    onebit.fit(model, data, torch.optim.Adam(model.parameters()), epochs=1)
    assert onebit.evaluate(model, data, verbose=False).count == 40
