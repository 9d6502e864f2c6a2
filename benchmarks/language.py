"""Language models with binary weights against the same file in llama.cpp: one prompt and its continuation.

A Llama of random weights is made binary with a scale per 128 inputs. `onebit.export_gguf` writes it as Q1_0 for
llama.cpp, whose own clock is read, and for `onebit.load_language_model`; `onebit.packed_layers_` runs it in
`generate()` of transformers, with a KV cache. Beside them a net with a scale per output. With `--shape`, a file of
random signs in the shape of a published net takes the place of the Llama, without transformers. Before anything is
timed, outputs are compared with those of the net in torch, and the probabilities with those of llama.cpp. `make
build/language` installs transformers and llama.cpp (the package `xllamacpp`); node-llama-cpp is another build of it,
which `npm install node-llama-cpp` puts into a folder for `--node`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import onebit
from benchmarks.random_gguf import ALPHABET, SHAPES, write_random
from benchmarks.shared import ROOT, Clock, OwnClock, Rows, compare, rows
from onebit.language.timing import run_once

FOLDER = Path(os.environ.get("ONEBIT_LANGUAGE", ROOT / "build" / "language"))
"""Where `make build/language` installs transformers and xllamacpp."""
GROUP, TOKENS = 128, 1024
LLAMA = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 4, "num_attention_heads": 32}
LLAMA |= {"num_key_value_heads": 8, "head_dim": 64, "vocab_size": TOKENS, "bos_token_id": 0, "eos_token_id": 0}
TOLERANCE, DIVERGENCE = 1e-4, 1e-3
"""Largest difference of an output from torch, as a share of the largest; largest KL divergence of llama.cpp."""
COLUMNS = {"net": "", "prompt_per_s": ",.0f", "prompt_speedup": ".2f", "generated_per_s": ",.0f"}
COLUMNS |= {"generated_speedup": ".2f", "megabytes": ",.1f"}
Generate = Callable[[], tuple[float, float]]
"""Reads the prompt and generates tokens; returns tokens per second of both."""


def make_llama(**options: Any) -> Any:
    """A Llama with random binary weights of `magnitude_aware`; its head is its embedding and stays real."""
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)).eval()
    quantizer = onebit.quantizers.WEIGHT_QUANTIZERS["magnitude_aware"]
    onebit.binarize_(model, weight_quantizer=lambda: quantizer(**options))
    return model


def write_tokenizer(folder: Path) -> None:
    """A tokenizer, which llama.cpp does not load a net without."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {text: n for n, text in enumerate([*ALPHABET, "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))


def in_transformers(model: Any, prompt: Tensor, tokens: int) -> tuple[Generate, Tensor, float]:
    """`generate()` of transformers with packed layers; log-probabilities after the prompt, megabytes of weights."""
    with torch.inference_mode():
        expected = model(prompt).logits
        report = onebit.packed_layers_(model)
        found = model(prompt).logits
    compare("packed layers in transformers", found, expected, TOLERANCE)
    times: list[float] = []
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

    def read_clock(ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        times.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool)

    def generate() -> tuple[float, float]:
        times[:] = [time.perf_counter()]
        with torch.inference_mode():
            model.generate(prompt, attention_mask=torch.ones_like(prompt), stopping_criteria=[read_clock], **options)
        return prompt.numel() / (times[1] - times[0]), (tokens - 1) / (times[-1] - times[1])

    return generate, found[0, -1].log_softmax(0), sum(one.packed_bytes for one in report.packed) / 1e6


def in_llama_cpp(file: Path, ids: list[int], tokens: int, threads: int) -> tuple[Generate, dict[int, float]]:
    """llama.cpp, and its log-probabilities of the most probable tokens after the prompt."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(file), len(ids) + tokens + 32, 1
    parameters.cpuparams.n_threads, parameters.warmup, parameters.verbosity = threads, False, -1
    server = xllamacpp.Server(parameters)
    request = {"prompt": ids, "temperature": 0, "ignore_eos": True, "cache_prompt": False}

    def generate() -> tuple[float, float]:
        times = server.handle_completions(request | {"n_predict": tokens})["timings"]
        return times["prompt_per_second"], times["predicted_per_second"]

    (choice,) = server.handle_completions(request | {"n_predict": 1, "n_probs": TOKENS})["choices"]
    return generate, {each["id"]: each["logprob"] for each in choice["logprobs"]["content"][0]["top_logprobs"]}


def in_node(folder: str, file: Path, ids: list[int], tokens: int, threads: int) -> Generate:
    """node-llama-cpp in a process of its own, which ends with this one."""
    script, numbers = Path(__file__).with_name("node_llama_cpp.mjs"), (len(ids) + tokens + 32, threads, tokens)
    command = ["node", str(script), str(Path(folder).resolve()), str(file), *map(str, numbers)]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def generate() -> tuple[float, float]:
        print(json.dumps(ids), file=node.stdin, flush=True)
        read, generated = json.loads(node.stdout.readline() if node.stdout else "")
        return read, generated

    return generate


def measure(
    *,
    shape: Literal["0.6B", "1.7B", "4B", "8B"] | None = None,
    node: str | None = None,
    prompt: int = 128,
    tokens: int = 32,
    rounds: int = 11,
    threads: int = 1,
) -> Rows:
    """Rows of net, tokens per second and speed-up over llama.cpp for prompt and generation, megabytes of weights.

    Args:
        shape: of a published net, in place of the Llama
        node: folder with node-llama-cpp, to time it too
        prompt: tokens of the prompt
        tokens: tokens to generate
    """
    sys.path.append(str(FOLDER))
    batch = torch.randint(1, TOKENS, (1, prompt), generator=torch.Generator().manual_seed(0))
    ids, calls, ours = batch[0].tolist(), dict[str, Generate](), dict[str, Tensor]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.gguf"
        if shape is None:
            model = make_llama(group=GROUP)
            write_tokenizer(Path(folder))
            exported = onebit.export_gguf(model, file, tokenizer=folder)
            size = exported.tensors["Q1_0"][1] * 18 / 128 / 1e6  # a block of 128 has 18 bytes
        else:
            write_random(file, SHAPES[shape])
            size = file.stat().st_size / 1e6
        calls["llama.cpp"], theirs = in_llama_cpp(file, ids, tokens, threads)
        if node is not None:
            calls["node-llama-cpp"] = in_node(node, file, ids, tokens, threads)
        options: dict[str, Any] = {"onebit": {}, "onebit, keys and values in int8": {"kv": "int8"}}
        for name in options:
            net = onebit.load_language_model(file, threads=threads, context=prompt + tokens, **options[name])
            calls[name] = partial(run_once, net, np.array(ids, np.int32), tokens)
            ours[name] = torch.from_numpy(net.log_probabilities(ids)[-1])
        sizes = dict.fromkeys(calls, size)
        if shape is None:
            name, other = "transformers, group 128", "transformers, a scale per output"
            calls[name], ours[name], sizes[name] = in_transformers(model, batch, tokens)
            calls[other], _, sizes[other] = in_transformers(make_llama(), batch, tokens)
        for name, probabilities in ours.items():
            known = probabilities[list(theirs)]
            divergence = float(F.kl_div(torch.tensor([*theirs.values()]), known, reduction="sum", log_target=True))
            if not divergence <= DIVERGENCE:
                raise onebit.errors.OnebitError(f"{name}: llama.cpp has a divergence of {divergence:.1e}")
        for call in calls.values():
            call()  # the first one prepares
        times = Clock(rounds).time(calls, OwnClock)
    found: dict[str, dict[str, Any]] = {name: {"net": name, "megabytes": size} for name, size in sizes.items()}
    for part, key in enumerate(("prompt", "generated")):
        seconds = {name: 1 / speeds[:, part] for name, speeds in times.items()}
        for row in rows(seconds, calls, "seconds", rival=["llama.cpp"]):
            found[row["variant"]] |= {f"{key}_per_s": 1 / row["seconds"], f"{key}_speedup": row["rival_speedup"]}
    yield from found.values()
