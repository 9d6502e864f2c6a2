"""The generated data set: reproducible and learnable."""

from __future__ import annotations

import numpy as np

from onebit.data import load_dataset, make_toy


def test_noise_seed_and_sizes() -> None:
    (train, test), (clean, _), (other, _) = (make_toy(300, 10, classes=3, **x) for x in ({}, {"noise": 0}, {"seed": 1}))
    assert (train.images.shape, len(test)) == ((300, 1, 8, 8), 10)
    assert np.bincount(train.labels).tolist() == [100] * 3
    assert 0.2 < ((train.images < 128) != (clean.images < 128)).mean() < 0.3
    assert set(np.unique(clean.images)) == {64, 192}
    assert (train.images != other.images).any()


def test_the_data_set_toy_never_changes() -> None:
    data = load_dataset("toy", validation=0)
    expected, _ = make_toy()
    np.testing.assert_array_equal(data.train.images, expected.images)
    # integers from a seeded PCG64: the same on every machine and with every numpy so far
    assert data.train.images[0, 0, 0].tolist() == [102, 102, 255, 13, 137, 85, 150, 77]
