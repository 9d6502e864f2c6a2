"""Ways to compute the same thing take turns in one process: every ratio of their times is formed within a round."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from onebit.errors import OnebitError, UsageError
from onebit.native import NativePlan, NotPlanned, instruction_set, instruction_sets, make_plan
from onebit.packed import InputSpec, PackedNet
from onebit.runtime.running import run, run_planned

CHECKED = 4
"""Images of a batch that the reference executor runs too: it is slow."""


@dataclass
class Timed:
    """A way to compute something, and its seconds of each round."""

    variant: str
    call: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)

    def time(self, least: float) -> None:
        calls, started = 0, time.perf_counter()
        while True:
            self.call()
            calls += 1
            spent = time.perf_counter() - started
            if spent >= least:
                self.seconds.append(spent / calls)
                return

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def speedups(of: Timed, to: Timed, name: str) -> dict[str, float]:
    """How many times as fast: the median over rounds, and of the fastest rounds."""
    return {
        f"{name}_speedup": statistics.median(b / a for a, b in zip(of.seconds, to.seconds, strict=True)),
        f"{name}_fastest_speedup": min(to.seconds) / min(of.seconds),
    }


class Reference:
    """What the reference executor makes of some samples of a batch."""

    def __init__(self, packed: PackedNet, batch: np.ndarray) -> None:
        self.net = packed
        self.some = np.unique(np.linspace(0, len(batch) - 1, CHECKED).astype(np.int64))
        self.answers = packed.by_name(run(packed, batch[self.some], executor="reference"))

    def check(self, name: str, answer: Any) -> None:
        """Raise OnebitError unless the outputs of all samples, as `run` returns them, are equal, bit for bit."""
        for output, found in self.net.by_name(answer).items():
            if found[self.some].tobytes() != self.answers[output].tobytes():
                raise OnebitError(f"{name}: {output} is not that of the reference executor")


def noise(spec: InputSpec, count: int) -> np.ndarray:
    """A batch of noise: uint8 of all values, or float32 of variance 1."""
    rng, size = np.random.default_rng(0), (count, *spec.shape)
    if spec.dtype == "float32":
        return rng.standard_normal(size, np.float32)
    return rng.integers(0, 256, size, dtype=np.uint8)


def take_turns(
    timed: Sequence[Timed], *, rounds: int, seconds: float, on_round: Callable[[int, int], None] | None = None
) -> None:
    """Time each of them in each round, for at least `seconds`. on_round: called with (rounds done, rounds)."""
    for done in range(rounds):
        for one in timed:
            one.time(seconds)
        if on_round is not None:
            on_round(done + 1, rounds)


def time_packed(
    net: PackedNet,
    batches: Sequence[int],
    *,
    rounds: int = 11,
    seconds: float = 0.02,
    threads: int = 1,
    on_round: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Time a packed net on noise: numpy, then each instruction set of this processor, in turn.

    Each is the whole of `onebit.run` with its checks, but for the choice of the executor.

    numpy alone if the native library does not run the net, is not installed, or ONEBIT_NATIVE=0 is set.

    Args:
        batches: numbers of samples, such as images, that are run at once.
        rounds, seconds, on_round: see `take_turns`; each batch has its own rounds.
        threads: the most that the native library takes; numpy takes one.

    Returns:
        rows of batch, variant, µs per call (median, fastest) and speedup over numpy.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"seconds is {seconds}, expected a positive number")
    plans: dict[str, NativePlan | None] = {"numpy": None}
    for isa, found in instruction_sets().items() if instruction_set() else ():
        with suppress(NotPlanned):
            plans[isa] = make_plan(net, found)
    rows = []
    for batch in batches:
        images = noise(net.input, batch)
        reference = Reference(net, images)
        timed = [
            Timed(variant, partial(run_planned, net, plan, images, threads=threads)) for variant, plan in plans.items()
        ]
        for one in timed:
            reference.check(f"{one.variant}, batch {batch}", one.call())
        take_turns(timed, rounds=rounds, seconds=seconds, on_round=on_round)
        rows += [
            {
                "batch": batch,
                "variant": one.variant,
                "us": 1e6 * one.median,
                "fastest_us": 1e6 * min(one.seconds),
                **speedups(one, timed[0], "numpy"),
            }
            for one in timed
        ]
    return rows
