"""Bars and lines on a terminal; nothing in a pipe unless it is asked for."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import onebit
from onebit.common.progress import COLUMNS, Progress, shows_progress
from onebit.data import make_toy
from onebit.train.history import History, epoch_lines
from onebit.verification import sample_comparison
from support.report_runs import row as row_of

TRAIN, TEST = make_toy(256, 64)
DATA = onebit.Dataset.from_arrays((TRAIN.images, TRAIN.labels), (TEST.images, TEST.labels), validation=64)
LOSSES = {"train_loss": 999.5, "train_error": 0.9375, "validation_loss": 1.0, "validation_error": 0.875}
SHARES = {"flip_ratio": 1.0, "saturation": 1.0, "best": 0.875}
ROW = row_of(1, epochs=9999, **LOSSES, **SHARES, seconds=200.0, images_per_second=640.0)
MASKED = replace(ROW, validation_mean_iou=0.4321, best=0.4321)


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What was drawn, without the codes that move the cursor or color it."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")


@contextmanager
def on_terminal() -> Iterator[Terminal]:
    """A terminal of 200 columns in the place of stderr; whatever it shows is within 80."""
    with redirect_stderr(Terminal()) as screen:
        yield screen
    assert all(len(line) <= COLUMNS for line in screen.lines), screen.lines


def make_model() -> nn.Module:
    return onebit.create_model("mlp", widths=(64, 16, 4), input_shape=(1, 8, 8))


def fit(**settings: Any) -> History:
    model = make_model()
    optimizer = onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=1e-2)))
    return onebit.fit(model, DATA, optimizer, epochs=3, **settings)


def test_fit_prints_the_net_a_bar_and_its_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    with on_terminal() as terminal:
        history = fit()
    lines = terminal.lines
    assert lines[:3] == [
        "MLP: 1,088 binary weights, 40 real parameters",
        "296 bytes when packed, 4,512 as float32",
        "check: 2 of 2 layers binary (100.0 % of weights); packs whole",
    ]
    (head,) = [line for line in lines if line.split()[:2] == ["epoch", "loss"]]
    assert head.split() == ["epoch", "loss", "train", "error", "validation", "error", "best", "left"]
    epochs = [line for line in lines if re.match(r" *[123]/3 ", line)]
    assert [line.split()[0] for line in epochs] == ["1/3", "2/3", "3/3"]
    for line, row in zip(epochs, history, strict=True):
        shown = [f"{row.train_loss:.4f}", *(f"{100 * error:.2f}" for error in (row.train_error, row.validation_error))]
        assert all(number in line for number in shown)
        best = min(before.validation_error for before in history.rows[: row.epoch])
        assert row.best == best
        assert f"{100 * best:.2f} %  " in line
        assert line.endswith(" s")
    total = history.rows[-1].step
    assert any("MLP" in line and f"/{total}" in line and "━" in line for line in lines)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("settings", [{"verbose": False}, {"on_epoch": lambda row: None}])
def test_callbacks_and_verbose_turn_the_bar_off(settings: dict[str, Any]) -> None:
    with on_terminal() as terminal:
        fit(**settings)
        own: dict[str, Any] = settings if "verbose" in settings else {"on_images": max}
        onebit.evaluate(make_model(), DATA.test, **own)
    assert terminal.getvalue() == ""


def test_a_pipe_gets_nothing_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    fit()
    onebit.evaluate(make_model(), DATA.test)
    assert capsys.readouterr() == ("", "")
    fit(verbose=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[0] for line in err.splitlines()[4:]] == ["1/3", "2/3", "3/3"]


def test_a_notebook_gets_lines_on_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Jupyter paints stderr red."""
    kind = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    out = kind()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        assert shows_progress(None)
        fit()
    assert [line.split()[0] for line in out.getvalue().splitlines()[4:]] == ["1/3", "2/3", "3/3"]
    assert capsys.readouterr() == ("", "")


def test_a_comparison_shows_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_comparison, "PATIENCE", 0)
    model = make_model().eval()
    with on_terminal() as terminal:
        packed = onebit.pack(model, data=TRAIN.images)
    assert any(line.startswith("comparing") and "256/256" in line for line in terminal.lines)
    with on_terminal() as terminal:
        onebit.verify(model, packed, TRAIN.images, on_images=max)
    assert terminal.getvalue() == ""


def test_the_bar_is_closed_after_an_error() -> None:
    """A cursor that stays hidden outlives the program."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with on_terminal() as terminal, pytest.raises(KeyboardInterrupt):
        fit(verbose=True, on_step=stop)
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().count(hidden) == terminal.getvalue().count(shown) == 1
    with on_terminal() as terminal:
        fit()
    assert any("3/3" in line for line in terminal.lines)


def test_only_one_bar_is_drawn_at_a_time() -> None:
    with on_terminal() as terminal:
        fit(verbose=True, on_epoch=lambda row: onebit.evaluate(make_model(), DATA.test))
    assert not any(line.startswith("evaluating") for line in terminal.lines)


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with on_terminal() as terminal:
        fit()
    assert [line.split()[0] for line in terminal.lines[4:]] == ["1/3", "2/3", "3/3"]


def test_the_time_left_is_of_this_stage_and_a_lower_bound_while_images_are_small() -> None:
    rows = [replace(ROW, epochs=3), replace(ROW, epochs=3, epoch=2, seconds=40.0)]
    assert epoch_lines(rows[:1])[-1].endswith(" 7 min")
    assert epoch_lines(rows)[-1].endswith(" 120 s")
    small, full = replace(ROW, epochs=5, seconds=10.0, small=True), replace(ROW, epochs=5, seconds=40.0)
    assert epoch_lines([small])[-1].endswith(" > 40 s")
    assert epoch_lines([small, replace(full, epoch=3)])[-1].endswith(" 80 s")


def test_a_history_prints_as_a_table() -> None:
    rows = [replace(ROW, epoch=i, train_loss=1 / i, validation_error=e, seconds=2.0) for i, e in ((1, 0.5), (2, 0.25))]
    history = History(rows)
    head, one, two, end = str(history).splitlines()
    assert head.split() == ["epoch", "loss", "train", "error", "validation", "error", "flips", "saturated", "seconds"]
    assert one.split() == ["1", "1.0000", "93.75", "%", "50.00", "%", "100.00", "%", "100.0", "%", "2.0"]
    assert two.split()[:2] == ["2", "0.5000"]
    assert end == "2 epochs, 4.0 s; best: epoch 2, validation error 25.00 % (binary weights)"
    assert repr(history) == f"History({end})"
    assert str(History()) == "no epochs"
    assert "mean IoU 0.4321" in str(History([MASKED]))
    unvalidated = History([replace(ROW, validation_error=None)])
    assert "validation" not in str(unvalidated)
    assert repr(unvalidated) == "History(1 epoch, 200.0 s; last train error 93.75 %)"


def test_a_long_label_leaves_room_for_the_bar() -> None:
    with on_terminal() as terminal:
        bar = Progress("cifar100-resnet110-binaryconnect-of-somebody", "steps")
        bar.update(100_000, 100_000)
        bar.close()
    assert any("100000/100000" in line and "…" in line for line in terminal.lines)
