"""Training on data of every form: order, resuming, tasks, and wrong data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Subset, TensorDataset, WeightedRandomSampler

import onebit
from onebit.data import Augmentation
from onebit.data.decoding import default_workers
from onebit.errors import CheckpointError, OnebitError, UsageError
from onebit.layers import BinaryLinear
from onebit.train.feeds import LoaderFeed
from onebit.train.fit_data import fit_data
from onebit.train.ranks import Ranks
from support.heads import TwoHeads, both, right, two_targets
from support.samples import BAD_DATA, VALUES, Augmented, SizedStream, Stream, X, Y, loader, net, tensors, train, trained
from support.tensors import same
from support.toy_training import Stop, stop_after_epoch, toy_data, whole_and_resumed

FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (X, Y),
    "data set": Augmented,
    "workers": lambda: loader(Augmented(), num_workers=min(2, default_workers())),
    "drop": lambda: loader(drop_last=True),
    "weighted": lambda: loader(shuffle=False, sampler=WeightedRandomSampler([1.0] * 83, 60)),
    "own generator": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "batches": lambda: DataLoader(tensors(), batch_sampler=BatchSampler(RandomSampler(tensors()), 9, False)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_and_resumes_bit_for_bit(form: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "validation": FORMS["data set" if form == "workers" else form](),  # each epoch starts workers
        "batch_size": 20 if form == "arrays" else None,
        "epochs": 2,
    }

    def run(folder: Path, **more: Any) -> dict[str, Tensor]:
        return trained(FORMS[form](), folder, seed=3, **options, **more)

    with nullcontext() if form == "arrays" else pytest.warns(UserWarning, match="epoch 2"):
        whole, resumed = whole_and_resumed(run, tmp_path)
    assert same(resumed, whole)
    assert form == "workers" or not same(trained(FORMS[form](), seed=4, **options), whole)


def test_arrays_and_tensors_train_alike_and_learn() -> None:
    one, other = (net() for _ in range(2))
    rows = train((X, Y), model=one, validation=(X, Y), epochs=30, batch_size=20).rows
    train((torch.from_numpy(X), torch.from_numpy(Y)), model=other, epochs=30, batch_size=20)
    assert same(one.state_dict(), other.state_dict())
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


def test_each_epoch_of_a_loader_has_another_order_and_every_sample() -> None:
    samples: Any = fit_data(loader()).train
    feed = LoaderFeed(samples=samples, device=torch.device("cpu"), seed=0, ranks=Ranks(), length=5, steps=5)
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
        ("loader", loader(), loader(tensors(X[::-1].copy()))),
        ("length", loader(Augmented()), loader(Subset(Augmented(), range(79)))),
    ):
        with pytest.raises(Stop):
            train(first, tmp_path / name, on_epoch=stop_after_epoch(1))
        with pytest.raises(CheckpointError):
            train(second, tmp_path / name, resume=True)


# -------------------------------------------------------------------------------------------------------------- tasks
def test_regression_has_loss_and_metrics_and_no_error(tmp_path: Path) -> None:
    model = net()
    history = train((X, VALUES), tmp_path, model=model, loss="mse", validation=(X, VALUES), epochs=30, batch_size=20)
    first, last = history.rows[0], history.rows[-1]
    assert first.train_error is last.validation_error is None
    assert last.validation_loss < 0.75 * first.train_loss  # type: ignore[operator]
    assert set(last.validation_metrics) == set(last.train_metrics) == {"r2", "mae"}
    assert last.validation_metrics["r2"] > 0.5 > first.train_metrics["r2"]
    assert history.best.validation_loss == min(row.validation_loss for row in history)  # type: ignore[type-var]
    assert history.best.best == history.best.validation_loss
    score = onebit.evaluate(model, (X, VALUES), loss="mse")
    assert score.loss == pytest.approx(last.validation_loss)
    assert score.metrics == pytest.approx(last.validation_metrics)
    stored = onebit.train.history.History.from_rows(history.texts)
    assert stored == history
    assert (tmp_path / "best.safetensors").exists()


def test_several_labels_per_sample() -> None:
    data = X, (VALUES > 0).astype(np.float32)
    history = train(data, loss="bce", validation=data, epochs=30, batch_size=20)
    assert set(history.rows[-1].validation_metrics) == {"f1", "exact_match"}
    assert history.rows[-1].validation_metrics["f1"] > 0.85 > history.rows[0].validation_metrics["f1"]


def test_balanced_class_weights_are_counted_in_data_of_every_form() -> None:
    labels = np.where(Y == 2, np.arange(len(Y)) % 2, Y)  # no sample of the last class
    counts = np.bincount(labels)
    weights = [*(len(Y) / (2 * counts)), 1.0]
    one_hot = np.eye(3, dtype=np.float32)[labels]
    ignored = np.where(np.arange(len(Y)) < 5, -100, labels)
    left = np.bincount(labels[5:])
    for targets, expected, options in (
        (labels, weights, {}),
        (one_hot, weights, {}),
        (ignored, [*(left.sum() / (2 * left)), 1.0], {"ignore_index": -100}),
    ):
        tensors = torch.from_numpy(X).float(), torch.from_numpy(targets)
        for form in ((X, targets), DataLoader(TensorDataset(*tensors), 20, shuffle=True)):
            balanced, given = (
                trained(form, epochs=1, batch_size=20, class_weights=each, **options) for each in ("balanced", expected)
            )
            assert same(balanced, given)
            assert not same(balanced, trained(form, epochs=1, batch_size=20, **options))
    for wrong in ("balance", [1, -1, 1], [1, 2]):
        with pytest.raises(UsageError, match="class_weights"):
            train((X, labels), class_weights=wrong)


def test_balanced_class_weights_of_masks_count_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 4, 4)).astype(np.uint8)
    masks = (images[:, 0] > 200).astype(np.uint8)
    masks[0] = 255  # pixels without a class
    counts = np.bincount(masks[1:].ravel())
    seen = []
    for weights in ("balanced", list(counts.sum() / (2 * counts))):
        torch.manual_seed(0)
        model = nn.Sequential(onebit.InputCoding(), nn.Conv2d(1, 2, 1))
        with pytest.warns(UserWarning, match="binary"):
            train((images, masks), model=model, epochs=1, batch_size=4, class_weights=weights)
        seen.append(model.state_dict())
    assert same(*seen)


def test_an_ignored_label_counts_nowhere_in_a_training(tmp_path: Path) -> None:
    padded = np.where(np.arange(len(Y)) % 3 == 0, 7, Y)
    history = train(
        (X, padded), tmp_path, validation=(X, padded), epochs=2, batch_size=20, ignore_index=7, metric="accuracy"
    )
    kept = padded != 7
    model = net()
    train((X, padded), model=model, epochs=2, batch_size=20, ignore_index=7, accumulate=2)
    last = history.rows[-1]
    assert last.validation_metrics["accuracy"] == pytest.approx(1 - last.validation_error)  # type: ignore[operator]
    assert last.train_metrics["accuracy"] == pytest.approx(1 - last.train_error)  # type: ignore[operator]
    score = onebit.evaluate(model, (X, padded), ignore_index=7)
    assert score == onebit.evaluate(model, (X[kept], Y[kept]))
    train((X, Y), tmp_path / "other", epochs=1, ignore_index=2)
    with pytest.raises(CheckpointError, match="ignore_index"):
        train((X, Y), tmp_path / "other", epochs=1, ignore_index=1, resume=True)


def test_several_outputs_with_a_users_loss_and_metric() -> None:
    data = two_targets(named=False)
    given, model = loader(data), TwoHeads(named=False)
    history = train(given, model=model, loss=both, metric=right, validation=given, accumulate=2, epochs=20)
    assert history.rows[-1].validation_metrics["right"] > 0.5
    assert history.rows[-1].validation_loss < 0.8 * history.rows[0].train_loss
    assert onebit.evaluate(model, DataLoader(data, 9), loss=both, metric=right).metrics == {  # type: ignore[arg-type]
        "right": pytest.approx(history.rows[-1].validation_metrics["right"])
    }


def test_batches_of_unknown_size_are_split_into_parts() -> None:
    batches = [(torch.from_numpy(X[:20]), torch.from_numpy(Y[:20]))] * 3
    assert np.isfinite(train(DataLoader(batches, batch_size=None), accumulate=4).rows[-1].train_loss)  # type: ignore[arg-type]


def test_half_an_epoch_of_a_loader_and_a_loader_without_length() -> None:
    assert train(loader(), epochs=0.4).rows[-1].step == 2
    history = train(DataLoader(Stream(), 20), epochs=3, steps_per_epoch=5)
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


@pytest.mark.parametrize("form", ["data set", "floats", "loader"])
def test_a_net_that_flattens_with_view_trains_and_is_evaluated(form: str) -> None:
    data = toy_data()
    images, labels = data.train.images, data.train.labels
    forms: dict[str, Any] = {
        "data set": data,
        "floats": (images / 255.0, labels),
        "loader": loader(tensors(images, labels)),
    }
    model = Viewing()
    train(forms[form], model=model, epochs=1)
    onebit.evaluate(model, forms[form])
    assert Viewing()(torch.from_numpy(images)).shape == (129, 4)


# ------------------------------------------------------------------------------------------------------------- refused


BAD = BAD_DATA | {
    "too large a batch": (lambda: (X, Y), {"batch_size": 84}),
    "an empty loader": (lambda: loader(batch_size=84, drop_last=True), {}),
    "a short loader": (lambda: DataLoader(SizedStream(83, 60), 20), {}),
    "augmentation": (lambda: (X, Y), {"augmentation": Augmentation(flip=True)}),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_data_are_refused(case: str) -> None:
    make, options = BAD[case]
    with pytest.raises(OnebitError):
        train(make(), **options)


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [
        *(("cross_entropy", torch.int32), ("squared_hinge", torch.uint16), ("hinge", torch.bool)),
        *(("cross_entropy", torch.uint8), ("hinge", torch.uint64)),
    ],
)
def test_labels_of_every_integer_type_train_alike(loss: str, dtype: torch.dtype) -> None:
    labels = torch.from_numpy(Y % 2).to(dtype)
    expected = trained(loader(tensors(y=Y % 2)), loss=loss, epochs=1)
    assert same(trained(loader(tensors(y=labels)), loss=loss, epochs=1), expected)
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
    x, labels, model = torch.from_numpy(X.copy()), torch.from_numpy(Y), InPlace()
    train((x, labels), model=model, epochs=1, validation=(x.numpy(), labels))
    onebit.evaluate(model, (x, labels))
    packed = onebit.pack(model.eval(), x[:2], data=(x, labels), trained=(x.numpy(), labels))
    found = onebit.verify(model, packed, (x, labels), trained=model)
    assert (found.label_mismatches, found.trained_mismatches) == (0, 0)
    assert np.array_equal(x.numpy(), X)


@pytest.mark.parametrize("twice", ["teacher", "samples", "health"])
def test_a_batch_that_is_read_twice_is_not_changed_by_forward(twice: str) -> None:
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


def test_several_processes_need_a_loader_that_divides_its_samples() -> None:
    def feed(**options: Any) -> LoaderFeed:
        samples: Any = fit_data(loader(shuffle=False, **options)).train
        length = len(samples.loader)
        device = torch.device("cpu")
        return LoaderFeed(samples=samples, device=device, seed=0, ranks=Ranks(1, 2), length=length, steps=length)

    with pytest.raises(UsageError, match="DistributedSampler"):
        feed()
    part = torch.utils.data.DistributedSampler(tensors(), num_replicas=2, rank=1)
    divided = feed(sampler=part)
    batches = list(divided.epoch(1, steps=divided.steps))
    assert [(len(x), count) for x, _, count in batches] == [(20, 40), (20, 40), (2, 4)]
    again = torch.cat([x for x, _, _ in divided.epoch(2, steps=divided.steps)])
    assert not torch.equal(again, torch.cat([x for x, _, _ in batches]))
    with pytest.raises(UsageError, match="DistributedSampler"):
        feed(sampler=torch.utils.data.DistributedSampler(tensors(), num_replicas=2, rank=0))


def test_pixels_from_0_to_1_are_refused_by_an_input_coding() -> None:
    images, labels = torch.rand(40, 1, 4, 4), torch.arange(40) % 3
    for coding in (onebit.InputCoding(), onebit.InputCoding("standardize", mean=[100.0], std=[50.0])):
        model = nn.Sequential(coding, nn.Flatten(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters())
        with pytest.raises(UsageError, match="pixels"):
            onebit.fit(model, (images, labels), optimizer, epochs=1)
        with pytest.raises(UsageError, match="pixels"):
            onebit.evaluate(model, (images, labels), verbose=False)
        onebit.fit(model, (255 * images, labels), optimizer, epochs=1)
        onebit.evaluate(model, (255 * images, labels), verbose=False)
