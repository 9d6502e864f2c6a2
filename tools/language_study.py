"""Language models that are one bit throughout, and those made from a float net: python -m tools.language_study FOLDER

Perplexity of held-out text with binary weights, bytes of the file, and perplexity of that file, for the Llamas and the
text of examples/language_model.py: 400 steps of 2,048 tokens from scratch, 100 from the float net. Finished runs, one
JSON file each in FOLDER, are not trained again; `--publish` copies them to docs/results/one_bit_throughout.json and
prints the table of docs/results.md. Needs transformers and gguf.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from onebit.evaluation.losses import next_token, token_distillation
from onebit.layers import binary_layers
from onebit.quantizers import Hardening, Quantizer, Xnor
from onebit.train.distillation import Teacher
from onebit.train.schedules import schedule_factor

RESULTS = Path("docs/results/one_bit_throughout.json")
STEPS, FEWER_STEPS, ROWS, RATE, BLOCKS = 400, 100, 16, 2e-3, 4


class LayerByLayer(Hardening):
    """One block hardens after the other, at once."""

    block = 0

    def set_progress(self, progress: float) -> None:
        self.set_scheduled(float(self.block <= progress / self.until * BLOCKS))


METHODS: dict[str, dict[str, Any]] = {
    "float": {},
    "float, continued": {"source": "float"},
    "real embedding": {"binary": True},
    "binary embedding": {"binary": True, "embeddings": True},
    "from float: labels": {"binary": True, "source": "float"},
    "from float: teacher": {"binary": True, "source": "float", "weight": 1.0},
    "from float: labels and teacher": {"binary": True, "source": "float", "weight": 0.5},
    "from float: labels and teacher, temperature 2": {
        "binary": True, "source": "float", "weight": 0.5, "temperature": 2.0,
    },
    "from float: labels, teacher and hidden states": {"binary": True, "source": "float", "weight": 0.5, "hidden": 1.0},
    "from float: labels and teacher, hardening": {
        "binary": True, "source": "float", "weight": 0.5, "harden": Hardening,
    },
    "from float: labels and teacher, layer by layer": {
        "binary": True, "source": "float", "weight": 0.5, "harden": LayerByLayer,
    },
    "from float: labels and teacher, binary embedding": {
        "binary": True, "source": "float", "weight": 0.5, "embeddings": True,
    },
    "from float: labels and teacher, binary embedding, hardening": {
        "binary": True, "source": "float", "weight": 0.5, "embeddings": True, "harden": Hardening,
    },
}  # fmt: skip


def hidden_loss(teacher: Any, weight: float, share: float, outputs: Any, tokens: Tensor) -> Tensor:
    """As `Teacher`, and the distance of hidden states after each block, relative to their size."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        taught = teacher(tokens, output_hidden_states=True)
    pairs = zip(outputs["hidden_states"][1:], taught.hidden_states[1:], strict=True)
    distances = [F.mse_loss(mine, theirs.float()) / theirs.float().square().mean() for mine, theirs in pairs]
    logits = outputs["logits"]
    loss = (1 - share) * next_token(logits, tokens) + share * token_distillation(logits, taught.logits.float(), tokens)
    return loss + weight * sum(distances) / BLOCKS


def train(home: Path, made: Any, method: str, width: int, seed: int, rows: Any, held_out: Any) -> dict[str, Any]:
    how = METHODS[method]
    steps, model, teacher = FEWER_STEPS if "source" in how else STEPS, made(width, seed), made(width, seed).eval()
    if "source" in how:
        for net in (model, teacher):
            net.load_state_dict(torch.load(home / file_of(how["source"], width, seed, ".pt")))
    if how.get("binary"):
        wrapped: Callable[[Quantizer], Quantizer] = how.get("harden", lambda quantizer: quantizer)
        embeddings = how.get("embeddings", False)
        onebit.binarize_(model, weight_quantizer=lambda: wrapped(Xnor(group=128)), embeddings=embeddings)
        for name, layer in binary_layers(model):
            if isinstance(layer.weight_quantizer, LayerByLayer):
                layer.weight_quantizer.block = int(name.split(".")[2])
    groups = onebit.latent_groups(model, lr=RATE)
    optimizer = onebit.clip_latents_(torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0))
    factor = schedule_factor("cosine", total_steps=steps, warmup_steps=steps // 10, final=0.1)
    loss: Any = "next_token"
    if "hidden" in how:
        model.config.output_hidden_states = True
        loss = partial(hidden_loss, teacher, how["hidden"], how["weight"])
    taught = Teacher(teacher, how["weight"], how.get("temperature", 1.0)) if "weight" in how else None
    tokens = torch.from_numpy(rows[: steps * ROWS].astype(np.int64))
    onebit.fit(
        model, (tokens, tokens) if "hidden" in how else tokens, optimizer, epochs=1, batch_size=ROWS, loss=loss,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, factor), clip_grad_norm=1.0, seed=seed, verbose=False,
        teacher=None if "hidden" in how else taught, precision="bf16",
    )  # fmt: skip
    model.config.output_hidden_states = False
    torch.save(model.state_dict(), home / file_of(method, width, seed, ".pt"))
    return {"method": method, "width": width, "seed": seed, "steps": steps, **scores(model, held_out)}


def scores(model: nn.Module, held_out: np.ndarray) -> dict[str, Any]:
    """Mean loss of a token, with binary weights; bytes and loss of the file with the rest in 8 bits."""
    score = onebit.evaluate(model, held_out, loss="next_token", batch_size=ROWS, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        exported = onebit.export_gguf(model, Path(folder, "net.gguf"))
        net = onebit.load_language_model(exported.file, context=held_out.shape[1])
        costs = [-net.log_probabilities(row)[np.arange(len(row) - 1), row[1:]] for row in held_out.tolist()]
    return {"loss": score.loss, "bytes": exported.size, "file_loss": float(np.mean(costs))}


def file_of(method: str, width: int, seed: int, suffix: str) -> str:
    return f"{method.replace(':', '').replace(',', '').replace(' ', '-')}-{width}-{seed}{suffix}"


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Perplexities of the seeds, in torch and of the file with the rest in 8 bits."""
    yield from ("| width | net | MB | perplexity | of the file |", "|---|---|---:|---|---|")
    for width in sorted({run["width"] for run in runs}):
        for method in METHODS:
            found = [run for run in runs if (run["width"], run["method"]) == (width, method)]
            values = [" / ".join(f"{math.exp(run[key]):.1f}" for run in found) for key in ("loss", "file_loss")]
            if found:
                yield f"| {width} | {method} | {found[0]['bytes'] / 1e6:.2f} | {' | '.join(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--publish", action="store_true")
    args = parser.parse_args()
    if args.publish:
        runs = [json.loads(path.read_text()) for path in sorted(args.home.glob("*.json"))]
        RESULTS.write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n")
        print("\n".join(table(runs)))
        return
    args.home.mkdir(parents=True, exist_ok=True)
    example = runpy.run_path("examples/language_model.py")
    rows, held_out = example["read_rows"](None)
    torch.set_num_threads(1)
    for seed in args.seeds:
        for method in args.methods:
            for width in args.widths:
                path = args.home / file_of(method, width, seed, ".json")
                if not path.exists():
                    started = time.perf_counter()
                    run = train(args.home, example["make_llama"], method, width, seed, rows, held_out)
                    path.write_text(json.dumps(run))
                    seconds = time.perf_counter() - started
                    print(f"{method} {width} {seed}: {math.exp(run['loss']):.2f} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
