"""The speed of a language model on this machine, beside the limit that its memory sets."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np

from onebit.common.progress import Done
from onebit.language.model import LanguageModel

_READ = 1 << 28  # bytes; more than caches have


def time_language_model(
    model: LanguageModel, *, prompt: int, tokens: int, rounds: int, on_round: Done = lambda done, of: None
) -> dict[str, Any]:
    """Tokens per second of a prompt and of its continuation, medians; a random prompt, the most probable tokens.

    "limit" is how often a second one thread could read the weights that a token needs; "resident" the largest memory of
    the process in bytes, None where the system does not say it.
    """
    ids = np.random.default_rng(0).integers(0, model.net.vocabulary, prompt, dtype=np.int32)
    speeds = []
    for done in range(rounds + 1):
        speeds.append(run_once(model, ids, tokens))
        on_round(done, rounds)
    read, generated = (statistics.median(column) for column in zip(*speeds[1:], strict=True))
    resident, bandwidth = _resident(), read_speed()
    size = sum(matrix.weight.data.nbytes for matrix in model.net.matrices[1:])  # all but a row of the embedding
    found = {"prompt_per_s": read, "generated_per_s": generated, "token_bytes": size, "bytes_per_s": bandwidth}
    return found | {"limit_per_s": bandwidth / size, "file_bytes": model.net.bytes_, "resident": resident}


def run_once(model: LanguageModel, prompt: np.ndarray, tokens: int) -> tuple[float, float]:
    """Tokens per second of a prompt (int32), and of as many of the most probable tokens after it."""
    begin = time.perf_counter()
    token = model.decoder.run(prompt, 0)[0].argmax()
    between = time.perf_counter()
    for n in range(tokens):
        token = model.decoder.run(np.array([token], np.int32), len(prompt) + n)[0].argmax()
    return len(prompt) / (between - begin), tokens / (time.perf_counter() - between)


def read_speed() -> float:
    """Bytes per second that one thread reads from memory."""
    values, times = np.zeros(_READ, np.uint8), []
    values[:: 1 << 12] = 1
    for _ in range(5):
        begin = time.perf_counter()
        values.max()
        times.append(time.perf_counter() - begin)
    return _READ / min(times)


def _resident() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
