"""The options of `fit` in groups, and by their own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_training import CASES, DATA, EPOCHS, Stop, build, everything, flat, stop_after_epoch

from onebit.errors import WrongTypeError
from onebit.train.loop import fit
from onebit.train.options import Execution, Monitor, Output
from onebit.train.step import StepSettings


def train(**options: Any) -> Any:
    toy = build(CASES["sign"])
    options = {"schedule": toy.schedule, **options}
    fit(toy.model, DATA, toy.optimizer, epochs=EPOCHS, batch_size=32, **options)
    return toy.model


def test_groups_and_keywords_are_the_same(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    train(
        execution=Execution(precision="fp32", memory_format="contiguous"),
        output=Output(tmp_path / "groups", facts={"note": "x"}),
        monitor=Monitor(on_step=lambda *step: steps.append(step), verbose=False),
    )
    train(precision="fp32", memory_format="contiguous", folder=str(tmp_path / "flat"), facts={"note": "x"})
    assert everything(tmp_path / "groups") == everything(tmp_path / "flat")
    assert steps[-1] == (12, 12)


def test_settings_of_the_step_are_keywords_too() -> None:
    settings: dict[str, Any] = {"accumulate": 3, "clip_grad_norm": 0.01}
    found, expected = train(**settings), train(step_settings=StepSettings(**settings))
    assert flat(found.state_dict()) == flat(expected.state_dict())
    assert flat(found.state_dict()) != flat(train().state_dict())


def test_a_keyword_replaces_the_field_of_a_group(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(output=Output(tmp_path), monitor=Monitor(verbose=True), verbose=False, on_epoch=stop_after_epoch(1))
    assert flat(train(output=Output(tmp_path), resume=True).state_dict()) == flat(train().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resum": True}, "fit got an unexpected keyword argument 'resum'; did you mean 'resume'?"),
        ({"epoch": 3}, "unexpected keyword argument 'epoch'; did you mean 'epochs'?"),
        ({"shedule": None}, "unexpected keyword argument 'shedule'; did you mean 'schedule'?"),
        ({"output": "run"}, "output: got 'run', expected onebit.train.options.Output"),
        ({"schedule": "cosine"}, "schedule: got 'cosine', expected a torch scheduler of the optimizer"),
        ({"step_settings": 3}, "step_settings: got 3, expected onebit.train.step.StepSettings"),
        ({"accumulate": 1.5}, "accumulate: got 1.5, expected a whole number"),
        ({"clip_grad_norm": "1"}, "clip_grad_norm: got '1', expected a number"),
        ({"execution": Output()}, "execution: got Output, expected onebit.train.options.Execution"),
        ({"ranks": 2}, "ranks: got 2, expected onebit.train.ranks.Ranks"),
        ({"folder": 3}, "folder: got 3, expected a path"),
        ({"on_epoch": 3}, "on_epoch: got 3, expected a function"),
    ],
)
def test_an_unknown_option_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongTypeError) as caught:
        train(**options)
    assert message in str(caught.value)
