"""The options of `fit` are keywords of its signature."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from onebit.train.loop import fit
from onebit.train.step import StepSettings
from support.toy_training import CASES, DATA, EPOCHS, build, everything, flat


def train(**options: Any) -> Any:
    toy = build(CASES["sign"])
    options = {"schedule": toy.schedule, **options}
    fit(toy.model, DATA, toy.optimizer, epochs=EPOCHS, batch_size=32, **options)
    return toy.model


def test_every_keyword_is_in_the_signature_with_its_default() -> None:
    known = inspect.signature(fit).parameters
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values())
    assert {"folder", "resume", "ranks", "on_epoch", "verbose", "precision"} <= known.keys()
    for setting in dataclasses.fields(StepSettings):
        assert known[setting.name].default == setting.default


def test_keywords_reach_the_training(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    quiet: dict[str, Any] = {"precision": "fp32", "memory_format": "contiguous", "facts": {"note": "x"}}
    train(folder=tmp_path / "path", on_step=lambda *step: steps.append(step), verbose=False, **quiet)
    train(folder=str(tmp_path / "text"), **quiet)
    assert everything(tmp_path / "path") == everything(tmp_path / "text")
    assert steps[-1] == (12, 12)


def test_settings_of_the_step_are_keywords_too() -> None:
    assert flat(train(accumulate=3, clip_grad_norm=0.01).state_dict()) != flat(train().state_dict())
