"""What the benchmarks share: one clock, one kind of row, one comparison of outputs, and facts of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import onebit

timing = onebit.runtime.timing

ROOT = Path(__file__).parents[1]
"""The clone of the repository, from which other processes import the benchmarks."""
Rows = Iterator[dict[str, Any]]
"""Dicts that json writes."""
UNITS = {"us": 1e6, "ms": 1e3, "seconds": 1.0}
Call = Callable[[], Any]
Times = dict[str, np.ndarray]
"""Variant -> what a call took in each round."""


class OwnClock(timing.Timed):
    """A call that returns what it took: a number or several."""

    def time(self, least: float) -> None:
        self.seconds.append(self.call())


@dataclass(frozen=True)
class Clock:
    """Lets calls that do the same work take turns, so that other load on the machine affects all of them alike.

    Args:
        rounds: timed rounds
        seconds: least time of each variant in a round
        threads: threads of every variant
    """

    rounds: int = 11
    seconds: float = 0.02
    threads: int = 1

    def time(self, calls: Mapping[str, Call], kind: type[timing.Timed] = timing.Timed) -> Times:
        """Seconds per call of each variant in each round; or what it returned, if it is an `OwnClock`."""
        timed = [kind(variant, call) for variant, call in calls.items()]
        timing.take_turns(timed, rounds=self.rounds, seconds=self.seconds)
        return {one.variant: np.array(one.seconds) for one in timed}


CLOCK = Clock()


def rows(times: Times, variants: Collection[str], unit: str = "us", **rivals: Collection[str]) -> Rows:
    """A row for each variant: its median and least time, and how many times faster it is than its rivals.

    Args:
        rivals: column -> variants, of which the one with the least median counts; its name and median are columns, too.
            The speed-up is the median of the ratios in each round.
    """
    medians = {variant: UNITS[unit] * np.median(each) for variant, each in times.items()}
    for variant in variants:
        row = {"variant": variant, unit: medians[variant], f"fastest_{unit}": UNITS[unit] * times[variant].min()}
        for column, others in rivals.items():
            if others:
                rival = min(others, key=medians.__getitem__)
                row |= {column: rival, f"{column}_{unit}": medians[rival]}
                row[f"{column}_speedup"] = np.median(times[rival] / times[variant])
        yield row


def compare(name: str, found: Any, expected: Any, tolerance: float) -> float:
    """The largest difference of outputs, as a share of the largest; OnebitError if it is above the tolerance."""
    found, expected = (np.asarray(outputs, np.float64) for outputs in (found, expected))
    share = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not share <= tolerance:  # also of NaN
        raise onebit.errors.OnebitError(f"{name}: outputs differ by {share:.1e} of the largest")
    return share


def machine() -> dict[str, Any]:
    """The machine and the packages that figures are measured with."""
    facts: dict[str, Any] = {"cpu": platform.processor() or platform.machine()}
    with suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        facts["cpu"] = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    facts |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    for package in ("torch", "onnxruntime"):
        with suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts
