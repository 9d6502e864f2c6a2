"""Output of the verbs: the answer on stdout, everything else on stderr (`onebit.common.progress`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from onebit.common.files import json_text
from onebit.common.progress import Progress as Progress, print_answer, progress as progress, say as say
from onebit.errors import escaped


def answer(text: str) -> None:
    """Print the answer on stdout; control characters in names of files and tensors are escaped."""
    print_answer("\n".join(map(escaped, text.split("\n"))))


def answer_either(value: dict[str, Any], text: str, *, as_json: bool) -> None:
    """The answer as one JSON object, see `json_text`, or as text."""
    print_answer(json_text(value, indent=2, default=str)) if as_json else answer(text)


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


@contextmanager
def download_progress() -> Iterator[Any]:
    """The callback that data loading takes, see `onebit.data.Progress`."""
    bars: dict[str, Progress] = {}
    with ExitStack() as opened:

        def update(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = opened.enter_context(progress(name, "B"))
                bars[name].print(name)
            bars[name].update(done, total)
            if done == total:
                bars[name].close()

        yield update
