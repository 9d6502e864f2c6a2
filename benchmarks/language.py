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

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import onebit
from benchmarks.random_gguf import SHAPES, write_random
from benchmarks.shared import ROOT, set_up_process
from onebit.language.timing import run_once

FOLDER = Path(os.environ.get("ONEBIT_LANGUAGE", ROOT / "build" / "language"))
"""Where `make build/language` installs transformers and xllamacpp."""
GROUP, HEAD, TOKENS = 128, 64, 1024
TOLERANCE, DIVERGENCE = 1e-4, 1e-3
"""Largest difference of an output from torch, as a share of the largest; largest KL divergence of llama.cpp."""
COLUMNS = {"net": "", "prompt_per_s": ",.0f", "prompt_speedup": ".2f", "generated_per_s": ",.0f"}
COLUMNS |= {"generated_speedup": ".2f", "megabytes": ",.1f"}
Timed = Callable[[], tuple[float, float]]
"""Reads a prompt and generates tokens; returns tokens per second of both."""


def make_llama(width: int, inner: int, layers: int, **options: Any) -> Any:
    """A Llama with random binary weights of `magnitude_aware`; its head is its embedding and stays real."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": TOKENS}
    heads = {"num_attention_heads": width // HEAD, "num_key_value_heads": max(1, width // HEAD // 4), "head_dim": HEAD}
    config = transformers.LlamaConfig(**sizes, **heads, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).eval()
    quantizer = onebit.quantizers.WEIGHT_QUANTIZERS["magnitude_aware"]
    onebit.binarize_(model, weight_quantizer=lambda: quantizer(**options))
    return model


def pack_layers(model: Any, prompt: Tensor) -> tuple[float, Tensor]:
    """Pack the model in place; megabytes of its binary weights, and log-probabilities of the token after the prompt.

    Raises:
        OnebitError: the packed layers give other outputs than the binary ones.
    """
    with torch.inference_mode():
        expected = model(prompt).logits
        report = onebit.packed_layers_(model)
        found = model(prompt).logits
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise onebit.errors.OnebitError(f"outputs of the packed layers differ by {difference:.1e} of the largest")
    return sum(row.packed_bytes for row in report.packed) / 1e6, found[0, -1].log_softmax(0)


def in_transformers(model: Any, prompt: Tensor, tokens: int) -> Timed:
    """`generate()` of transformers, without the time of its preparations."""
    import transformers

    class Clock(transformers.StoppingCriteria):
        def __call__(self, ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

    times: list[float] = []
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

    def generate() -> tuple[float, float]:
        times.clear()
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(prompt, attention_mask=torch.ones_like(prompt), stopping_criteria=[Clock()], **options)
        return prompt.numel() / (times[0] - started), (tokens - 1) / (times[-1] - times[0])

    return generate


def write_tokenizer(folder: Path) -> None:
    """A tokenizer, which llama.cpp does not load a net without."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [*sorted(bytes_.alphabet()), "ab"]
    tokenizer = Tokenizer(models.BPE(vocab={text: n for n, text in enumerate(texts)}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = bytes_
    tokenizer.save(str(folder / "tokenizer.json"))


def in_llama_cpp(file: Path, prompt: Tensor, tokens: int, threads: int, vocabulary: int) -> tuple[Timed, Tensor]:
    """llama.cpp, and its log-probabilities of the token after the prompt."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(file), prompt.numel() + tokens + 32, 1
    parameters.cpuparams.n_threads, parameters.warmup, parameters.verbosity = threads, False, -1
    server = xllamacpp.Server(parameters)
    request = {"prompt": prompt.flatten().tolist(), "temperature": 0, "ignore_eos": True, "cache_prompt": False}

    def generate() -> tuple[float, float]:
        times = server.handle_completions(request | {"n_predict": tokens})["timings"]
        return times["prompt_per_second"], times["predicted_per_second"]

    (choice,) = server.handle_completions(request | {"n_predict": 1, "n_probs": TOKENS})["choices"]
    found = torch.full((vocabulary,), -torch.inf)
    for row in choice["logprobs"]["content"][0]["top_logprobs"]:
        found[row["id"]] = row["logprob"]
    return generate, found


def in_node(folder: Path, file: Path, prompt: Tensor, tokens: int, threads: int) -> Timed:
    """node-llama-cpp in a process of its own, which ends with this one."""
    script, numbers = Path(__file__).with_name("node_llama_cpp.mjs"), (prompt.numel() + tokens + 32, threads, tokens)
    command = ["node", str(script), str(folder.resolve()), str(file), *map(str, numbers)]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def generate() -> tuple[float, float]:
        print(json.dumps(prompt.flatten().tolist()), file=node.stdin, flush=True)
        read, generated = json.loads(node.stdout.readline() if node.stdout else "")
        return read, generated

    return generate


def in_onebit(file: Path, prompt: Tensor, tokens: int, threads: int, **options: Any) -> tuple[Timed, Tensor]:
    """`onebit.load_language_model`, and its log-probabilities of the token after the prompt."""
    ids = prompt.flatten().numpy()
    model = onebit.load_language_model(file, threads=threads, context=len(ids) + tokens, **options)
    return partial(run_once, model, ids, tokens), torch.from_numpy(model.log_probabilities(ids.tolist())[-1])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The keyword arguments of `measure` as flags."""
    parser.add_argument("--width", type=int, default=2048, help="of the net, a multiple of 128 (%(default)s)")
    parser.add_argument("--inner", type=int, default=5632, help="width inside a perceptron (%(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="of the net (%(default)s)")
    parser.add_argument("--shape", choices=SHAPES, help="of a published net, in place of the three")
    parser.add_argument("--node", type=Path, metavar="FOLDER", help="with node-llama-cpp, to time it too")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to generate (%(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every variant (%(default)s)")


def measure(
    *,
    width: int,
    inner: int,
    layers: int,
    shape: str | None,
    node: Path | None,
    prompt: int,
    tokens: int,
    rounds: int,
    threads: int,
) -> dict[str, Any]:
    """Rows of net, tokens per second and speed-up over llama.cpp for prompt and generation, megabytes of weights."""
    sys.path.append(str(FOLDER))
    set_up_process(threads)
    ids = torch.randint(1, TOKENS, (1, prompt), generator=torch.Generator().manual_seed(0))
    timed: dict[str, Timed] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.gguf"
        if shape is None:
            model = make_llama(width, inner, layers, group=GROUP)
            write_tokenizer(Path(folder))
            exported = onebit.export_gguf(model, file, tokenizer=folder)
            size = exported.tensors["Q1_0"][1] * 18 / 128 / 1e6  # a block of 128 has 18 bytes
        else:
            write_random(file, SHAPES[shape])
            size = file.stat().st_size / 1e6
        vocabulary = TOKENS if shape is None else SHAPES[shape][-1]
        timed["llama.cpp"], theirs = in_llama_cpp(file, ids, tokens, threads, vocabulary)
        if node is not None:
            timed["node-llama-cpp"] = in_node(node, file, ids, tokens, threads)
        found = {}
        for name, options in {"onebit": {}, "onebit, keys and values in int8": {"kv": "int8"}}.items():
            timed[name], found[name] = in_onebit(file, ids, tokens, threads, **options)
        sizes = dict.fromkeys(timed, size)
        if shape is None:
            for name, net in (
                ("transformers, group 128", model),
                ("transformers, a scale per output", make_llama(width, inner, layers)),
            ):
                sizes[name], found[name] = pack_layers(net, ids)
                timed[name] = in_transformers(net, ids, tokens)
            del found[name]  # another net
        for name, ours in found.items():
            known = theirs.isfinite()  # llama.cpp tells the most probable ones
            divergence = float(F.kl_div(theirs[known], ours[known], reduction="sum", log_target=True))
            if not divergence <= DIVERGENCE:
                raise onebit.errors.OnebitError(f"{name}: llama.cpp has a divergence of {divergence:.1e}")
        speeds = {name: [generate()] for name, generate in timed.items()}  # the first call prepares
        for _ in range(rounds):
            for name, generate in timed.items():
                speeds[name].append(generate())
    rows = []
    for name, measured in speeds.items():
        row: dict[str, Any] = {"net": name, "megabytes": sizes[name]}
        for at, what in enumerate(("prompt", "generated")):
            row[f"{what}_per_s"] = statistics.median(one[at] for one in measured[1:])
            pairs = zip(measured[1:], speeds["llama.cpp"][1:], strict=True)
            row[f"{what}_speedup"] = statistics.median(ours[at] / theirs[at] for ours, theirs in pairs)
        rows.append(row)
    return {"rows": rows}
