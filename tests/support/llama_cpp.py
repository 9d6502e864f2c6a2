"""llama.cpp, from the folder of `make build/language` that `support.language_models` adds to the path."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class LlamaCpp:
    """A GGUF file in llama.cpp, on one thread."""

    def __init__(self, server: Any, tokens: int) -> None:
        self.server, self.tokens = server, tokens

    def log_probabilities(self, prompt: list[int]) -> np.ndarray:
        """(tokens,) of the token after a prompt."""
        request = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": self.tokens, "cache_prompt": False}
        (choice,) = self.server.handle_completions(request)["choices"]
        found = np.full(self.tokens, -np.inf)
        for row in choice["logprobs"]["content"][0]["top_logprobs"]:
            found[row["id"]] = row["logprob"]
        return found

    def tokenize(self, text: str) -> list[int]:
        content = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        address, kind = f"{self.server.listening_address}/tokenize", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(address, content, kind)) as answer:
            return json.load(answer)["tokens"]


@contextmanager
def running(path: Path, tokens: int) -> Iterator[LlamaCpp]:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel, parameters.warmup = str(path), 256, 1, False
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    try:
        yield LlamaCpp(server, tokens)
    finally:
        del server
