"""Threads that share images or kernel calls: the bits do not depend on their number, and waiting threads sleep."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread, active_count, get_ident
from typing import Any

import numpy as np
import pytest

from onebit.errors import NotBinaryError
from onebit.native import NativePlan, instruction_sets, make_plan, thread_pool
from onebit.native.abi import BarrierStruct, NormStruct
from onebit.native.arena import aligned
from onebit.packed import Affine, Flatten, Relu, Sign
from onebit.runtime import run, running
from support.kernel_nets import kernel_nets
from support.packed_nets import Builder, inputs_of

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call uses all threads."""
    monkeypatch.setattr(running, "threads_for", lambda plan, count, threads: threads)


@pytest.mark.parametrize("isa", instruction_sets())
def test_any_number_of_parts_makes_the_same_bits(isa: str) -> None:
    for net in kernel_nets():
        plan, images = make_plan(net, instruction_sets()[isa]), inputs_of(net, 2)
        expected, _ = plan.run(images)
        plan.plan.batch = 1  # parts continue with the next batch together
        for parts in (2, 7):
            np.testing.assert_array_equal(plan.run(images, parts=parts)[0], expected)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(thread, images, parts) of each call of a plan."""
    found: list[tuple[int, int, int]] = []
    alone = NativePlan.run

    def watched(plan: NativePlan, images: np.ndarray, *, parts: int = 1) -> tuple[np.ndarray, bool]:
        found.append((get_ident(), len(images), parts))
        return alone(plan, images, parts=parts)

    monkeypatch.setattr(NativePlan, "run", watched)
    return found


def test_a_call_takes_as_many_threads_as_its_work_is_worth(
    calls: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = kernel_nets()[-1]
    images = inputs_of(net, 12)
    expected = run(net, images, executor="reference")
    np.testing.assert_array_equal(run(net, images[:3], threads=3), expected[:3])
    assert calls == [(get_ident(), 3, 1)], "waking a thread takes longer than running a small net"
    plan = running.native_plan(net)
    assert plan is not None
    monkeypatch.setattr(running, "_THREAD_WORK", plan.work)  # an image for each thread
    for count, sizes in ((12, [4, 4, 4]), (2, [1, 1])):
        calls.clear()
        np.testing.assert_array_equal(run(net, images[:count], threads=3), expected[:count])
        assert [size for _, size, _ in calls] == sizes
    monkeypatch.setattr(running, "_THREAD_WORK", plan.work // 2)  # half an image
    calls.clear()
    np.testing.assert_array_equal(run(net, images[:1], threads=3), expected[:1])
    assert calls == [(get_ident(), 1, 2)]


def test_shares_do_not_wait_for_threads_that_have_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine."""
    over, pool = Event(), ThreadPoolExecutor(2)
    monkeypatch.setattr(thread_pool, "_pool", lambda: pool)
    busy = [pool.submit(over.wait, 60) for _ in range(2)]
    try:
        assert list(thread_pool.run_shares(lambda share: (share, get_ident()), "abc")) == [
            (s, get_ident()) for s in "abc"
        ]
    finally:
        over.set()
    assert all(one.result() for one in busy)
    pool.shutdown()


def test_calls_of_any_number_of_threads_share_the_same_threads() -> None:
    def together(count: int) -> None:
        """All shares at the same time."""
        start = Barrier(count)
        assert list(thread_pool.run_shares(lambda share: start.wait(30) >= 0, range(count))) == [True] * count

    together(8)
    before = active_count()
    for count in range(2, 9):
        together(count)
        thread_pool.run_parts(lambda part, parts, barrier: 0, count)
    assert active_count() <= before + 1  # one may be about to be idle


def stage_call(kernel: Callable[[int], None]) -> Callable[[Any], None]:
    """A call of a kernel of training in two threads; it gets what it keeps."""

    def run_part(address: Any, stage: int, part: int, parts: int) -> int:
        if stage:
            kernel(part)
        return 1

    return lambda values: thread_pool.run_stages(run_part, NormStruct(), (1,), parts=2, keep=values)


def plan_call(kernel: Callable[[int], None]) -> Callable[[Any], None]:
    """The same of a plan."""

    def run_part(*arguments: Any) -> int:
        kernel(arguments[-3])
        return 0

    isa = list(instruction_sets().values())[-1]._replace(run=run_part)
    plan = make_plan(kernel_nets()[0], isa)
    return lambda values: plan.run_at(0, 1, 0, parts=2, keep=values)


@pytest.mark.parametrize("made", [stage_call, plan_call])
def test_a_thread_keeps_the_memory_of_an_interrupted_call(made: Callable[..., Callable[[Any], None]]) -> None:
    entered, interrupted, alive, values = Event(), Event(), [], np.zeros(3)
    kept = weakref.ref(values)

    def kernel(part: int) -> None:
        if part == 0:
            assert entered.wait(10)
            raise KeyboardInterrupt
        entered.set()
        assert interrupted.wait(10)
        alive.append(kept() is not None)

    with pytest.raises(KeyboardInterrupt):
        made(kernel)(values)
    del values
    gc.collect()
    interrupted.set()
    while not alive:
        time.sleep(0.001)
    assert alive == [True]


def test_a_waiting_thread_uses_no_processor_time() -> None:
    net = kernel_nets()[-1]
    plan, images = make_plan(net, list(instruction_sets().values())[-1]), inputs_of(net, 1)
    expected, _ = plan.run(images)
    units = plan.plan.arena_units + plan.plan.scratch_units
    made, (arena, memory), barrier = np.empty_like(expected), aligned(units), BarrierStruct()
    where: Any = images.ctypes.data, 1, memory, made.ctypes.data
    spent: list[float] = []

    def part(number: int) -> None:
        began = time.thread_time()
        plan.isa.run(ctypes.byref(plan.plan), *where, number, 2, ctypes.addressof(barrier))
        spent.append(time.thread_time() - began)

    early = Thread(target=part, args=(0,))
    early.start()
    time.sleep(0.3)
    assert early.is_alive()
    part(1)
    early.join()
    np.testing.assert_array_equal(made, expected)
    assert max(spent) < 0.1
    del arena


@pytest.mark.usefixtures("shared")
def test_callers_at_the_same_time_do_not_wait_for_each_other() -> None:
    nets = [(net, inputs_of(net, 1)) for net in kernel_nets()[:6]]
    expected = [run(net, images, threads=1) for net, images in nets]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda pair: run(*pair, threads=3), nets)
            for made, wanted in zip(found, expected, strict=True):
                np.testing.assert_array_equal(made, wanted)


@pytest.mark.usefixtures("shared")
def test_the_sign_of_nan_is_refused_whichever_part_takes_it() -> None:
    b = Builder((1, 8, 8))
    b.add(Affine, scale=np.full(1, 3e38, np.float32), shift=None)  # infinite
    b.add(Relu)
    b.add(Affine, scale=np.zeros(1, np.float32), shift=None)
    b.add(Sign)
    b.add(Flatten)
    b.dense(3)
    images = np.full((1, 1, 8, 8), 0, np.uint8)
    images[0, 0, -1, -1] = 255
    with pytest.raises(NotBinaryError):
        run(b.net(), images, threads=4)


def test_a_part_that_never_arrives_releases_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    net = kernel_nets()[0]
    plan, images = make_plan(net, next(iter(instruction_sets().values()))), inputs_of(net, 1)
    expected, _ = plan.run(images, parts=3)

    class Interrupted:
        def __init__(self) -> None:
            self.pool, self.left = ThreadPoolExecutor(2), 1

        def submit(self, *arguments: object) -> object:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return self.pool.submit(*arguments)  # type: ignore[arg-type]

    interrupted = Interrupted()
    monkeypatch.setattr(thread_pool, "_pool", lambda: interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan.run(images, parts=3)
    interrupted.pool.shutdown(wait=True)  # the submitted part has returned
    monkeypatch.undo()
    np.testing.assert_array_equal(plan.run(images, parts=3)[0], expected)


@pytest.mark.skipif(not hasattr(os, "fork") or sys.version_info >= (3, 12), reason="forks warn beside threads")
@pytest.mark.usefixtures("shared")
def test_a_forked_process_has_its_own_thread_pool() -> None:
    net = kernel_nets()[0]
    images = inputs_of(net, 1)
    expected = run(net, images, threads=3)
    child = os.fork()
    if child == 0:
        same = np.array_equal(run(net, images, threads=3), expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
