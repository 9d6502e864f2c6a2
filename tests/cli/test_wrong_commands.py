"""Every wrong command line is one line on stderr and exit status 2, and writes nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_support import Outcome

from onebit.cli.verbs import VERBS

OTHERS = [
    "trian",
    "help pck",
    "train mnist-fats",
    "train digits-smoke mnist-fast",
    "train digits-smoke --epochs",
    "train digits-smoke --json=yes",
    "train digits-smoke --optimizer.lrr 3",
    "train digits-smoke --loss mse",
    "train --dataset mnits",
    "train --resume nowhere",
    "train digits-smoke --out a --out b",
    "train digits-smoke --seeds 0-2 --seed 1",
    "train digits-smoke --resume run --overwrite",
    "summary",
    "summary nowhere",
    "summary --model mlp",
    "summary --model mlpp --input_shape 1,2,2",
    "summary --model mlp --input_shape 1,x",
    "summary --model nets.py:Net --dataset mnist",
    "summary --model mlp --dataset mnist --method bn",
    "summary mnist-mlp --model.hidden 3",
    "evaluate nowhere",
    "evaluate mnist-mlp --weights latent",
    "evaluate mnist-mlp --dataset toy",
    "evaluate mnist-mlp --seed -1",
    "verify nowhere",
    "verify nowhere.1bit",
    "inspect nowhere",
    "inspect .",
    "pack nowhere -o net.1bit",
    "pack mnist-mlp -o net.1bit",
    "pack nowhere -o net.1bit --no-certify --activations 8",
    "pack nowhere -o net.1bit --no-certify --weights sample",
    "pack nowhere -o net.1bit --images 0",
    "export mnist-mlp --to elsewhere -o net",
    "export nowhere --to torch -o net.pth",
    "predict nowhere.1bit a.png",
    "predict . a.png",
    "predict mnist-mlp nowhere.png",
    "predict mnist-mlp a.png --masks masks",
    "bench nowhere.1bit",
    "bench mnist-mlp --rounds 0",
    "bench mnist-mlp --seconds nan",
    "report nowhere -o page",
    "data nowhere",
    "data mnist --data nowhere",
]


def of_parsers() -> Iterator[str]:
    """What the parsers of the verbs refuse: nothing to do, unknown and half-written options, and wrong choices."""
    for verb in [verb for verb in VERBS if verb != "train"]:
        actions = importlib.import_module(f"onebit.cli.{verb}_verb").parser()._actions
        places = [action for action in actions if not action.option_strings]
        needed = ["x" if action.choices is None else next(iter(action.choices)) for action in places]
        start = " ".join([verb, *needed])
        yield f"{start} --no-such-option"
        if any(action.required for action in actions):
            yield verb
        for action in actions:
            if action.option_strings and action.nargs != 0:
                yield f"{start} {action.option_strings[-1]}"
            if action.choices is not None:
                yield " ".join(
                    filter(None, [start if action.option_strings else verb, *action.option_strings[-1:], "!"])
                )


@pytest.mark.parametrize("words", [*OTHERS, *of_parsers()])
def test_a_wrong_command_line_is_one_line(
    onebit: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = onebit(*words.split())
    assert (refused.status, refused.out) == (2, "")
    assert refused.line.startswith("onebit: ")
    assert not list(tmp_path.iterdir())
