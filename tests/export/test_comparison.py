"""Which differences between an exported net and the packed net are errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onebit.errors import OnebitError
from onebit.export import Comparison
from onebit.export.comparison import MAX_DISTANCE, MAX_LABELS, compare
from onebit.packed import Certificate, PackedNet
from onebit.runtime import run
from support.packed_nets import NETS_OF_OTHER_INPUTS, Builder, inputs_of, sign_net

Outputs = dict[str, np.ndarray]


def outputs_of(net: PackedNet, count: int = 100) -> Outputs:
    return net.by_name(run(net, inputs_of(net, count)))


def changed(outputs: Outputs, change: Callable[[np.ndarray], np.ndarray]) -> Outputs:
    return {name: change(values.copy()) for name, values in outputs.items()}


def compared(net: PackedNet, expected: Outputs, found: Outputs) -> Comparison:
    return compare(net, expected, found, what="noise", runs_with="a test")


def assert_rejected(net: PackedNet, expected: Outputs, found: Outputs) -> None:
    comparison = compared(net, expected, found)
    with pytest.raises(OnebitError, match="differ"):
        comparison.check(exact=False)


def test_equal_outputs_have_every_bit_equal() -> None:
    net = sign_net()
    expected = outputs_of(net)
    found = compared(net, expected, changed(expected, np.copy))
    assert found == Comparison(100, "noise", "a test", 100, 0, 0.0, 0.0, 0.0, True)
    assert "0 of 100 labels" in str(found)
    found.check(exact=True)


def test_a_different_last_bit_is_an_error_only_for_exact_targets() -> None:
    net = sign_net()
    expected = outputs_of(net)

    def one_bit(values: np.ndarray) -> np.ndarray:
        values[3, 1] = np.nextafter(values[3, 1], np.float32(np.inf))
        return values

    found = compared(net, expected, changed(expected, one_bit))
    assert not found.bit_exact
    assert 0 < found.largest < 1e-3
    found.check(exact=False)
    with pytest.raises(OnebitError, match="differs"):
        found.check(exact=True)


@pytest.mark.parametrize(("share", "passes"), [(MAX_LABELS, True), (MAX_LABELS + 0.01, False)])
def test_a_small_share_of_labels_may_differ(share: float, passes: bool) -> None:
    net = sign_net()
    expected = outputs_of(net)

    def flipped(values: np.ndarray) -> np.ndarray:
        for row in range(round(share * len(values))):
            values[row, values[row].argmin()] = values[row].max() + 1
        return values

    found = changed(expected, flipped)
    comparison = compared(net, expected, found)
    assert comparison.label_mismatches == round(100 * share)
    if passes:
        comparison.check(exact=False)
    else:
        assert_rejected(net, expected, found)


def test_outputs_that_are_not_logits_have_a_largest_distance() -> None:
    net = NETS_OF_OTHER_INPUTS["features"]()
    expected = outputs_of(net)

    def moved(factor: float) -> Outputs:
        return changed(expected, lambda values: values + np.float32(factor * MAX_DISTANCE) * np.abs(values).max())

    near = compared(net, expected, moved(0.5))
    assert (near.labels, near.label_mismatches) == (None, None)
    near.check(exact=False)
    assert_rejected(net, expected, moved(2))
    small = min(expected, key=lambda name: float(np.abs(expected[name]).max()))
    expected[small] *= np.float32(1e-6)  # relative to this output, not to the others
    assert_rejected(net, expected, expected | {small: -expected[small]})


def compared_as(kind: str, certificate: Certificate) -> PackedNet:
    """A net of 5 outputs whose certificate compares labels, several labels, or values."""
    return replace(sign_net(), certificate=replace(certificate, compared=kind))


def test_each_number_of_a_regression_is_compared_with_its_range(certificate: Certificate) -> None:
    """One number of five is wrong by a fifth of its range; the others are larger, and the argmax may be the same."""
    net = compared_as("values", certificate)
    expected = outputs_of(net)
    (name,) = expected
    expected[name] *= np.float32([1, 1, 1, 1, 1e-6])
    expected[name] += np.float32([0, 0, 0, 100, 0])

    def moved(factor: float) -> Outputs:
        added = np.float32(factor) * np.ptp(expected[name], axis=0) * np.float32([0, 0, 0, 0, 1])
        return {name: expected[name] + added}

    found = compared(net, expected, moved(0.2))
    assert (found.labels, found.label_mismatches) == (None, None)
    assert found.relative == pytest.approx(0.2, rel=1e-3)
    assert_rejected(net, expected, moved(0.2))
    compared(net, expected, moved(0.5 * MAX_DISTANCE)).check(exact=False)
    expected[name][:, 4] = 3  # no range: relative to its magnitude
    compared(net, expected, {name: expected[name] * np.float32(1 + 1e-6)}).check(exact=False)
    nothing = {name: np.zeros_like(expected[name])}
    compared(net, nothing, nothing).check(exact=True)


def test_several_labels_and_pixels_are_counted_one_by_one(certificate: Certificate) -> None:
    net = compared_as("multi-label", certificate)
    expected = outputs_of(net)
    (name,) = expected
    wrong = expected[name].copy()
    wrong[:7, 2] *= -1
    wrong[:7, 2] -= wrong[:7, 2] == 0
    found = compared(net, expected, {name: wrong})
    assert (found.labels, found.label_mismatches, found.noun) == (500, 7, "labels")
    found.check(exact=False)
    b = Builder((3, 4, 5))
    b.affine(3)
    masks = b.net()
    expected = outputs_of(masks, 7)
    found = compared(masks, expected, changed(expected, np.negative))
    assert (found.labels, found.noun) == (7 * 4 * 5, "pixels")
    found = compared(replace(masks, certificate=net.certificate), expected, expected)
    assert (found.labels, found.noun) == (7 * 3 * 4 * 5, "labels")


@pytest.mark.parametrize("factor", [1.01, 1e-6, np.nan])
def test_logits_of_another_scale_are_rejected_although_their_labels_are_equal(factor: float) -> None:
    net = sign_net()
    expected = outputs_of(net)
    moved = changed(expected, lambda values: values * np.float32(factor))
    assert np.isnan(factor) or compared(net, expected, moved).label_mismatches == 0
    assert_rejected(net, expected, moved)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_rejected(wrong: float) -> None:
    net = NETS_OF_OTHER_INPUTS["features"]()
    expected = outputs_of(net)
    assert_rejected(net, expected, changed(expected, lambda values: np.where(values > 0, np.float32(wrong), values)))


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: v.astype(np.float64), lambda v: v[None]])
def test_other_shapes_and_dtypes_are_an_error(change: Callable[[np.ndarray], np.ndarray]) -> None:
    net = sign_net()
    expected = outputs_of(net)
    with pytest.raises(OnebitError, match="n17"):
        compared(net, expected, changed(expected, change))
