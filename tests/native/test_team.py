"""Threads that share the steps of one image: the same bits for any number of them, and none waits for ever."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kernel_nets import images_of, kernel_nets
from packed_nets import Builder

from onebit.errors import NotBinaryError
from onebit.native import instruction_sets, make_plan, team
from onebit.packed import Affine, Flatten, PackedNet, Relu, Sign
from onebit.runtime import run, running

pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every net is large enough for its steps to be shared."""
    monkeypatch.setattr(running, "_SHARED_WORK", 0)


@pytest.mark.parametrize("isa", instruction_sets())
def test_any_number_of_parts_makes_the_same_bits(isa: str) -> None:
    for net in kernel_nets():
        plan, images = make_plan(net, instruction_sets()[isa]), images_of(net, 2)
        expected, _ = plan.run(images)
        plan.plan.batch = 1  # parts go on with the next batch together
        for parts in (2, 3, 7):
            np.testing.assert_array_equal(plan.run(images, parts=parts)[0], expected)


def test_one_image_is_shared_where_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    together = team.run_together

    def watched(part: team.Part, parts: int) -> bool:
        asked.append(parts)
        return together(part, parts)

    monkeypatch.setattr("onebit.native.memory.run_together", watched)
    net = kernel_nets()[-1]
    images = images_of(net, 1)
    alone = run(net, images, threads=3)
    assert asked == [], "a small net"
    monkeypatch.setattr(running, "_SHARED_WORK", 0)
    np.testing.assert_array_equal(run(net, images, threads=3), alone)
    assert asked == [3]


@pytest.mark.usefixtures("shared")
def test_callers_at_the_same_time_do_not_wait_for_each_other() -> None:
    nets = [(net, images_of(net, 1)) for net in kernel_nets()[:6]]
    expected = [run(net, images, threads=1) for net, images in nets]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda pair: run(*pair, threads=3), nets)
            for made, wanted in zip(found, expected, strict=True):
                np.testing.assert_array_equal(made, wanted)


def not_a_number() -> PackedNet:
    b = Builder((1, 8, 8))
    huge = np.full(1, 3e38, np.float32)
    b.add(Affine, scale=huge, shift=None)  # infinite
    b.add(Relu)
    b.add(Affine, scale=np.zeros(1, np.float32), shift=None)
    b.add(Sign)
    b.add(Flatten)
    b.dense(3)
    return b.net()


@pytest.mark.usefixtures("shared")
def test_the_sign_of_nan_is_refused_whichever_part_takes_it() -> None:
    images = np.full((1, 1, 8, 8), 0, np.uint8)
    images[0, 0, -1, -1] = 255
    with pytest.raises(NotBinaryError):
        run(not_a_number(), images, threads=4)


def test_a_part_that_never_comes_lets_the_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    net = kernel_nets()[0]
    plan, images = make_plan(net, next(iter(instruction_sets().values()))), images_of(net, 1)
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
    monkeypatch.setattr(team, "_team", lambda parts: interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan.run(images, parts=3)
    interrupted.pool.shutdown(wait=True)  # the part that was sent has come back
    monkeypatch.undo()
    np.testing.assert_array_equal(plan.run(images, parts=3)[0], expected)


@pytest.mark.skipif(not hasattr(os, "fork") or sys.version_info >= (3, 12), reason="forks warn beside threads")
@pytest.mark.usefixtures("shared")
def test_a_forked_process_has_a_team_of_its_own() -> None:
    net = kernel_nets()[0]
    images = images_of(net, 1)
    expected = run(net, images, threads=3)
    child = os.fork()
    if child == 0:
        same = np.array_equal(run(net, images, threads=3), expected)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
