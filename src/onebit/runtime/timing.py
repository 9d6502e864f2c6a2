"""Times of several ways to compute the same, in turn in one process, so that all meet the same load."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from onebit.common.fields import Positive, read
from onebit.errors import OnebitError
from onebit.native import NativePlan, NotPlanned, instruction_set, instruction_sets, make_plan
from onebit.packed import PackedNet
from onebit.runtime.input_batch import as_batches, as_given
from onebit.runtime.running import run, run_planned

CHECKED = 4
"""Images of a batch that the reference executor, which is slow, runs for comparison."""


@dataclass
class Timed:
    """A variant and its seconds per call, one number for each round."""

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


def against_reference(net: PackedNet, batch: Any) -> Callable[[str, Any], None]:
    """A function of a name and the outputs of `run` that raises OnebitError unless the reference executor agrees.

    It compares some samples, bit for bit.
    """
    parts = as_batches(net, batch)
    some = np.unique(np.linspace(0, len(parts[0]) - 1, CHECKED).astype(np.int64))
    expected = net.by_name(run(net, as_given([part[some] for part in parts]), executor="reference"))

    def check(name: str, answer: Any) -> None:
        for output, found in net.by_name(answer).items():
            if found[some].tobytes() != expected[output].tobytes():
                raise OnebitError(f"{name}: {output} differs from the reference executor")

    return check


def noise(net: PackedNet, count: int) -> Any:
    """Noise as inputs of a net: uniform uint8, or float32 of variance 1."""
    rng = np.random.default_rng(0)
    return as_given(
        [
            rng.standard_normal((count, *spec.shape), np.float32)
            if spec.dtype == "float32"
            else rng.integers(0, 256, (count, *spec.shape), dtype=np.uint8)
            for spec in net.inputs.values()
        ]
    )


def take_turns(
    timed: Sequence[Timed], *, rounds: int, seconds: float, on_round: Callable[[int, int], None] | None = None
) -> None:
    """Time each variant in each round, for at least `seconds`. on_round: called with (rounds done, rounds)."""
    for done in range(rounds):
        for one in timed:
            one.time(seconds)
        if on_round is not None:
            on_round(done + 1, rounds)


def time_packed(
    net: PackedNet,
    batch: int,
    *,
    rounds: int = 11,
    seconds: float = 0.02,
    threads: int = 1,
    on_round: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Time a packed net on noise with numpy and with each instruction set of this processor.

    Each call does all of `onebit.run` but the choice of the executor. Only numpy is timed if the native library is not
    installed or does not run the net, or if ONEBIT_NATIVE=0 is set.

    Args:
        batch: number of samples per call.
        rounds, seconds, on_round: see `take_turns`.
        threads: most threads of the native library; numpy takes one.

    Returns:
        rows of batch, variant, µs per call (median, fastest) and speedup over numpy.
    """
    images, plans = noise(net, batch), dict[str, NativePlan | None](numpy=None)
    for isa, found in instruction_sets().items() if instruction_set() else ():
        with suppress(NotPlanned):
            plans[isa] = make_plan(net, found)
    timed = [Timed(isa, partial(run_planned, net, plan, images, threads=threads)) for isa, plan in plans.items()]
    check = against_reference(net, images)
    for one in timed:
        check(f"{one.variant}, batch {batch}", one.call())
    take_turns(timed, rounds=rounds, seconds=read(seconds, Positive, name="seconds"), on_round=on_round)
    return [
        {
            "batch": batch,
            "variant": one.variant,
            "us": 1e6 * one.median,
            "fastest_us": 1e6 * min(one.seconds),
            "numpy_speedup": timed[0].median / one.median,
        }
        for one in timed
    ]
