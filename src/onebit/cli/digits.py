"""Digits that are not as in MNIST, whose labels a net for MNIST often gets wrong. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from onebit.common.picture_files import and_others
from onebit.common.progress import say
from onebit.errors import escaped
from onebit.packed import PackedNet

SHAPE = (1, 28, 28)
"""The input of a net for MNIST, which is white on black."""
FRAME = 2
"""Pixels at the border of a digit that are background."""
GRAY = 4
"""The least background that is not black: with 4 of 255 mnist-mlp loses 0.8 points of accuracy, with 12 it loses 26."""
DIM = 200
"""A digit is dim below this brightest pixel: at 200 of 255 mnist-mlp-large loses 1.0 points of accuracy, at 100 6.6."""
SIDES = range(16, 22)
"""Pixels of the longer side of a digit, 20 in MNIST: of 15 pixels, mnist-mlp loses 21 points of accuracy, of 22 2.4."""
CENTER, OFF_CENTER = 14, 1.5
"""Where its center of mass is, and how far at most beside it: 2 pixels cost mnist-mlp 1 to 3 points, 3 cost 6 to 13."""
WRONG = "labels are often wrong"


def tell_odd_digits(
    net: PackedNet, files: Sequence[str], samples: np.ndarray, notes: Sequence[list[str]], *, inverted: bool
) -> None:
    """Say which digits are not as in MNIST, a line for each kind, and add it to the notes on each sample."""
    made = net.certificate
    if samples.shape[1:] != SHAPE or samples.dtype != np.uint8 or (made and not made.dataset.startswith("mnist")):
        return
    for kind, words in _kinds(samples, inverted=inverted):
        found: list[int] = np.flatnonzero(kind).tolist()
        for i in found:
            notes[i].append(words(i))
        if found:
            say(f"{escaped(files[found[0]])}: {words(found[0])}{and_others(len(found) - 1)}")


def _kinds(samples: np.ndarray, *, inverted: bool) -> Iterator[tuple[np.ndarray, Callable[[int], str]]]:
    """The samples that differ from MNIST in one way, bool (N,), and the words for each of them."""
    border = np.ones(SHAPE, bool)
    border[:, FRAME:-FRAME, FRAME:-FRAME] = False
    frame, inside = samples[:, border], samples[:, ~border]
    # of all pixels, too: a dark frame may hide light paper
    background = np.maximum(np.median(frame, axis=1), np.median(samples, axis=(1, 2, 3)))
    darkest, brightest = (each(samples, axis=(1, 2, 3)) for each in (np.min, np.max))
    gray = (background >= GRAY) & (darkest < brightest)  # a blank image is reported as such
    light = np.maximum(background, np.median(inside, axis=1)) > inside.mean(axis=1)
    way = "leave out --invert" if inverted else "add --invert"
    yield gray & light, lambda i: f"looks inverted, dark on white, where MNIST is white on black: {way}"
    paper = "paper white" if inverted else "background black"
    yield (
        gray & ~light,
        lambda i: f"has a gray background, where that of MNIST is black: {WRONG}; make the {paper} first",
    )
    black = (background < GRAY) & (darkest < brightest)
    yield (
        black & (brightest < DIM),
        lambda i: (
            f"is dim: its brightest pixel has {brightest[i]} of 255, where MNIST has 255: {WRONG}; stretch its values "
            "to 255 first"
        ),
    )
    sides, off = _placed(samples[:, 0].astype(np.float64))
    sized = np.isin(sides, SIDES)
    yield (
        black & ~sized,
        lambda i: (
            f"has a digit of {sides[i]} pixels, where those of MNIST have 20 of 28: {WRONG}; "
            f"{'leave a margin around it' if sides[i] > SIDES[-1] else 'cut the image closer'} first"
        ),
    )
    yield (
        black & sized & (off > OFF_CENTER),
        lambda i: (
            f"has a digit that is off center by {off[i]:.0f} pixels, where MNIST has its center of mass in the middle: "
            f"{WRONG}; center it first"
        ),
    )


def _placed(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The longer side of each digit (N, H, W), and how far its center of mass is off to a side, up or down."""
    sides, off = np.zeros(len(digits), np.int64), np.zeros(len(digits))
    ink = digits > digits.max(axis=(1, 2), keepdims=True) / 4
    for axis in (1, 2):
        strokes, mass = ink.any(axis=axis), digits.sum(axis=axis)
        length = strokes.shape[1] - strokes.argmax(axis=1) - strokes[:, ::-1].argmax(axis=1)
        center = (mass * np.arange(strokes.shape[1])).sum(axis=1) / np.maximum(mass.sum(axis=1), 1)
        sides, off = np.maximum(sides, length), np.maximum(off, np.abs(center - CENTER))
    return sides, off
