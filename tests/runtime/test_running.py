"""`onebit.run`: any input, as an array or a tensor; several outputs; timing."""

from __future__ import annotations

import io
import threading
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import onebit
from onebit.errors import FormatError, UsageError
from onebit.native import NativePlan
from onebit.packed import Affine, Conv, Dense, Flatten, Node, PackedNet, Relu, Sign, save
from onebit.runtime import batches, run, running, timing
from onebit.runtime.input_batch import as_batch
from onebit.runtime.running import native_plan
from support.packed_nets import NETS_OF_OTHER_INPUTS, Builder, inputs_of


def assert_equal(found: Any, expected: Any) -> None:
    """The same structure, with the same bits."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = tuple(found.values()), tuple(expected.values())
    for a, b in zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]:
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize("form", NETS_OF_OTHER_INPUTS)
def test_arrays_tensors_and_paths_give_the_same(form: str, tmp_path: Path) -> None:
    net = NETS_OF_OTHER_INPUTS[form]()
    batch = inputs_of(net, 5)
    expected = run(net, batch)
    assert type(expected) is {"features": dict, "signal": tuple, "activations": tuple}.get(form, np.ndarray)
    save(net, tmp_path / "net.1bit")
    tensor = torch.from_numpy(batch)
    assert_equal(onebit.run(tmp_path / "net.1bit", batch), expected)
    assert_equal(onebit.run(str(tmp_path / "net.1bit"), batch), expected)
    assert_equal(run(net, tensor), expected)
    assert_equal(run(net, list(batch)), expected)
    assert_equal(run(net, tensor.clone().requires_grad_() if net.input.dtype == "float32" else tensor), expected)
    assert_equal(run(net, np.asfortranarray(batch), executor="reference"), expected)
    assert_equal(run(net, batch[::-1].copy()[::-1], threads=2, batch_size=3), expected)
    with pytest.raises(FormatError):
        run(tmp_path / "gone.1bit", batch)


def test_the_outputs_have_the_shapes_and_keys_of_the_model() -> None:
    net = NETS_OF_OTHER_INPUTS["features"]()
    made = run(net, inputs_of(net, 4))
    assert {key: array.shape for key, array in made.items()} == {"gated": (4, 33), "number": (4,), "again": (4, 33)}
    np.testing.assert_array_equal(made["gated"], made["again"])
    empty = run(net, inputs_of(net, 0))
    assert {key: array.shape for key, array in empty.items()} == {"gated": (0, 33), "number": (0,), "again": (0, 33)}
    one = PackedNet(inputs={"input": net.input}, nodes=(Relu(inputs=("input",), output="a"),), output=("a",))
    assert isinstance(run(one, inputs_of(net, 4)), tuple)


@pytest.mark.parametrize("form", NETS_OF_OTHER_INPUTS)
def test_a_call_infers_no_shapes_and_asks_the_library_once(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NETS_OF_OTHER_INPUTS[form]()
    batch, plan = inputs_of(net, 5), native_plan(net)
    module = onebit.PackedModule(net)
    expected = run(net, batch), net.by_name(module(torch.from_numpy(batch)))

    def again(self: Any, *values: Any) -> Any:
        raise AssertionError("a shape is inferred again")

    for node in net.nodes:
        monkeypatch.setattr(type(node), "infer", again)
    calls: list[int] = []
    if plan is not None:
        once = NativePlan.run
        monkeypatch.setattr(NativePlan, "run", lambda *given, **more: calls.append(1) or once(*given, **more))
        assert_equal(run(net, batch), expected[0])
        torch.testing.assert_close(net.by_name(module(torch.from_numpy(batch))), expected[1], rtol=0, atol=0)
        assert len(calls) == 2


def test_samples_may_be_read_on_demand() -> None:
    net = NETS_OF_OTHER_INPUTS["tokens"]()
    batch, sizes = inputs_of(net, 9), []
    streamed = Streamed(batch, lambda part: sizes.append(len(part)) or part)
    for executor in ("native", "reference"):
        assert_equal(run(net, streamed, batch_size=4, executor=executor), run(net, batch))
    assert max(sizes) == 4


def blas_threads() -> set[int]:
    """Threads of NumPy's BLAS; packages that other tests import have their own."""
    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return {library["num_threads"] for library in blas if "numpy" in library["filepath"]}


def test_the_reference_takes_one_blas_thread() -> None:
    """Also where a run of another thread ends with an error in between; the number from before comes back."""
    net, seen = NETS_OF_OTHER_INPUTS["signal"](), []

    def fail(*given: Any) -> None:
        raise FormatError("stops")

    def run_and_fail() -> None:
        with pytest.raises(FormatError):
            [*batches(net, inputs_of(net, 2), net.outputs, step=fail)]

    def step(start: int, node: Node, execute: Any, given: list[np.ndarray]) -> np.ndarray:
        other = threading.Thread(target=run_and_fail)
        other.start()
        other.join()
        seen.append(blas_threads())
        return execute(*given)

    with threadpool_limits(2, user_api="blas"):
        [*batches(net, inputs_of(net, 2), net.outputs, step=step)]
        assert blas_threads() <= {2}
    assert len(seen) == len(net.nodes)
    assert all(counts <= {1} for counts in seen)


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_a_bar_shows_after_some_seconds(monkeypatch: pytest.MonkeyPatch, executor: str) -> None:
    net, screen = NETS_OF_OTHER_INPUTS["signal"](), io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    with redirect_stderr(screen):
        run(net, inputs_of(net, 6), batch_size=2, executor=executor)
        assert screen.getvalue() == ""
        monkeypatch.setattr(running, "PATIENCE", 0)
        run(net, inputs_of(net, 6), batch_size=2, executor=executor)
    assert "6/6" in screen.getvalue()


def test_progress_counts_samples() -> None:
    net, seen = NETS_OF_OTHER_INPUTS["signal"](), []
    run(net, inputs_of(net, 7), batch_size=3, threads=1, on_images=lambda *done: seen.append(done))
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_inputs_that_are_not_finite_are_refused(executor: str) -> None:
    net = NETS_OF_OTHER_INPUTS["tokens"]()
    batch = inputs_of(net, 3)
    batch[0, 0, 0], batch[2, 5, :2] = np.nan, np.inf
    for given in (batch, torch.from_numpy(batch), batch.transpose(0, 2, 1).copy().transpose(0, 2, 1)):
        with pytest.raises(UsageError, match="infinite"):
            run(net, given, executor=executor)
    with pytest.raises(UsageError, match="infinite"):
        next(batches(net, batch, net.outputs))
    with pytest.raises(UsageError, match="infinite"):
        run(net, Streamed(batch), batch_size=1, executor=executor)


class Streamed:
    """Samples that are read on demand, without a dtype."""

    def __init__(self, batch: np.ndarray, read: Any = lambda part: part) -> None:
        self.shape, self.batch, self.read = batch.shape, batch, read

    def __getitem__(self, index: slice) -> np.ndarray:
        part: np.ndarray = self.batch[index]
        return self.read(part) if len(part) else part


@pytest.mark.parametrize("executor", ["native", "reference"])
@pytest.mark.parametrize(
    ("read", "noun"),
    [
        (lambda batch: batch.astype(np.uint8), "inputs"),
        (lambda batch: batch[:, :2], "inputs"),
        (lambda batch: batch[:3], "got 3 samples"),
        (lambda batch: np.repeat(batch, 2, axis=0), "got 8 samples"),
    ],
)
def test_samples_read_on_demand_have_the_expected_number_and_shape(read: Any, noun: str, executor: str) -> None:
    net = NETS_OF_OTHER_INPUTS["tokens"]()
    with pytest.raises(UsageError, match=noun):
        run(net, Streamed(inputs_of(net, 9), read), batch_size=4, executor=executor)


def test_subnormal_numbers_count_even_if_torch_flushes_them() -> None:
    """Threads of the pool keep the mode of the thread that made them; the flag is that of the calling thread."""
    if not torch.set_flush_denormal(False):
        pytest.skip("the processor flushes nothing")
    b = Builder((3, 16, 16), coding="float32", seed=1)
    for _ in range(2):
        b.add(Affine, scale=np.full(3, 1e-20, np.float32))
    b.add(Sign, shift=np.full(3, 1e-42, np.float32))
    for channels in (3, 64, 64):
        b.add(Conv, **b.signs(64, 9 * channels), kernel=(3, 3), padding=(1, 1, 1, 1))
        b.threshold(64)
    b.add(Flatten)
    b.add(Dense, **b.signs(4, 64 * 256))
    net = b.net()
    batch = np.random.default_rng(0).normal(0, 0.1, (32, 3, 16, 16)).astype(np.float32)
    right = run(net, batch, threads=2)
    try:
        torch.set_flush_denormal(True)
        small = np.float32(1e-40) * np.ones(1, np.float32)
        assert (torch.from_numpy(small) * 1).item() == 0
        for threads in (1, 2):
            np.testing.assert_array_equal(run(net, batch, threads=threads), right)
        assert (torch.from_numpy(small) * 1).item() == 0
    finally:
        torch.set_flush_denormal(False)


def test_the_largest_numbers_are_finite() -> None:
    b = Builder((2,), coding="float32")
    b.add(Relu)
    batch = np.full((3, 2), np.finfo(np.float32).max, np.float32)
    np.testing.assert_array_equal(run(b.net(), batch), batch)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((5, 20)),
        np.zeros((5, 20), np.uint8),
        np.zeros(20, np.float32),
        np.zeros((5, 4, 5), np.float32),
        torch.zeros(5, 20, dtype=torch.float64),
    ],
)
def test_other_inputs_are_refused(batch: Any) -> None:
    net = NETS_OF_OTHER_INPUTS["features"]()
    for call in (run, lambda net, batch: as_batch(net.input, batch)):
        with pytest.raises(UsageError, match="inputs"):
            call(net, batch)


def test_outputs_that_overflow_are_refused() -> None:
    b = Builder((2,), coding="float32")
    fine = b.add(Relu)
    b.add(Affine, scale=np.full(2, 3e38, np.float32))
    net = b.net((fine, b.last))
    with pytest.raises(FormatError, match="finite"):
        run(net, np.full((1, 2), 9, np.float32))


def test_times_include_the_checks_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.runtime.running.check_logits", lambda net, logits: time.sleep(0.005))
    for row in timing.time_packed(NETS_OF_OTHER_INPUTS["features"](), 1, rounds=1, seconds=1e-4):
        assert row["fastest_us"] > 5000, row["variant"]


@pytest.mark.parametrize("form", NETS_OF_OTHER_INPUTS)
def test_any_net_is_timed(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.runtime.running._THREAD_WORK", 1)
    net = NETS_OF_OTHER_INPUTS[form]()
    for count, threads in ((1, 2), (3, 1)):
        rows = timing.time_packed(net, count, rounds=1, seconds=1e-4, threads=threads)
        assert {row["batch"] for row in rows} == {count}
    check = timing.against_reference(net, batch := timing.noise(net, 3))
    wrong = net.by_name(run(net, batch))
    wrong[net.outputs[-1]] = -wrong[net.outputs[-1]] + 1
    with pytest.raises(onebit.errors.OnebitError, match="reference"):
        check("changed", net.structured(wrong))
