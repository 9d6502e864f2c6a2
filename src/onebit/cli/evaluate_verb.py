"""`onebit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onebit.cli.inputs import data_facts, load_data, open_net, set_threads
from onebit.cli.output import answer_either, percent, progress
from onebit.cli.parsing import Parser
from onebit.errors import UsageError
from onebit.nets import is_packed

MAX_TEXT = 1_000_000_000


def parser() -> Parser:
    shared = ("run-or-net", "recipe", "model", "dataset", "seed", "data", "threads", "json")
    made = Parser(
        "evaluate", "Accuracy, or perplexity on --data TOKENS.npy, in a stated test mode, in float32.", *shared
    )
    modes = "latent, binary, mean, sample, ensemble:N or packed (default: binary; packed for a packed net)"
    made.add_argument("--weights", metavar="MODE", help=modes)
    made.add_argument("--split", choices=("test", "validation", "train"), default="test", help="images (default: test)")
    statistics = (
        "BatchNorm statistics: those of the file, or re-estimated on training images with these weights "
        "(auto: re-estimated if those of the file belong to other weights)"
    )
    made.add_argument("--classes", action="store_true", help="also print the scores of each class, and its confusions")
    text = "of a language model in a GGUF file: the text whose perplexity is measured"
    made.add_argument("--text", metavar="FILE.txt", help=text)
    made.add_argument("--bn", choices=("auto", "trained", "reestimate"), default="auto", help=statistics)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    if args.run.lower().endswith(".gguf"):
        return _gguf(args)
    if (Path(args.run) / "config.json").is_file():
        return _language_model(args)
    found = _evaluated(args)
    bn = "" if found["bn"] == "trained" else ", BatchNorm re-estimated"
    seed = f", seed {found['seed']}" if "seed" in found else ""
    masks = f", mean IoU {found['mean_iou']:.4f}, Dice {found['dice']:.4f}" if "mean_iou" in found else ""
    masks += f", macro F1 {found['f1']:.4f}" if "f1" in found else ""
    text = (
        f"accuracy {percent(found['accuracy'])} ({found['correct']:,} of {found['count']:,}) on "
        f"{found['dataset']} {found['split']} with {found['weights']} weights{seed}{bn}{masks}; "
        f"{found['loss_name']} {found['loss']:.4f}, entropy {found['entropy']:.4f} nats, "
        f"calibration error {percent(found['ece'])}"
    )
    if args.classes:
        from onebit.report.tables import class_table

        table = class_table("", [found], found["classes"])
        text += f"\n{table}\n{table.note}" if table else ""
    answer_either(found, text, as_json=args.json)
    return 0


def _gguf(args: Any) -> int:
    """The perplexity of a GGUF file on a text, or on rows of tokens; without torch."""
    import numpy as np

    from onebit.common.files import read_regular
    from onebit.data.fetch import own_path
    from onebit.language import load_language_model

    if (args.text is None) == (args.data is None):
        raise UsageError("a GGUF file is evaluated on --text FILE.txt or on --data TOKENS.npy")
    model = load_language_model(args.run)
    if args.text is None:
        rows = np.atleast_2d(np.load(own_path("tokens", args.data), allow_pickle=False)).tolist()
    else:
        rows = [model.encode(read_regular(args.text, largest=MAX_TEXT).decode("utf-8", "replace"))]
    parts = [row[begin : begin + model.context] for row in rows for begin in range(0, len(row), model.context)]
    loss, count, total = 0.0, 0, sum(len(part) - 1 for part in parts)
    if not total:
        raise UsageError("got no row of 2 tokens or more")
    with progress("evaluating", "tokens") as bar:
        for part in parts:
            some, number = model.loss(part)
            loss, count = loss + some, count + number
            bar.update(count, total)
    perplexity = float(np.exp(loss / count))
    found = {"model": args.run, "text": args.text or args.data, "perplexity": perplexity, "tokens": count}
    found |= {"context": model.context, "loss": loss / count}
    text = f"perplexity {perplexity:.4f} on {count:,} tokens of {found['text']}, in parts of {model.context:,}"
    answer_either(found, text, as_json=args.json)
    return 0


def _language_model(args: Any) -> int:
    """The perplexity of a folder of `save_pretrained` on rows of tokens; no code of the folder runs."""
    import numpy as np
    from transformers import AutoModelForCausalLM

    from onebit.data.fetch import own_path
    from onebit.evaluation.modes import evaluate
    from onebit.runs.language import register_transformers

    set_threads()
    register_transformers()
    tokens = np.load(own_path("tokens", args.data), allow_pickle=False)
    model = AutoModelForCausalLM.from_pretrained(args.run, local_files_only=True, use_safetensors=True)
    score = evaluate(model.float(), tokens, loss="next_token", weights=args.weights or "binary", seed=args.seed)
    answer_either(score.as_dict() | {"data": args.data}, f"{score} on {args.data}", as_json=args.json)
    return 0


def _evaluated(args: Any) -> dict[str, Any]:
    """The scores of a packed net, without torch, or of a run in any test mode."""
    packed = is_packed(args.run)
    weights = args.weights or ("packed" if packed else "binary")
    if packed and weights != "packed":
        raise UsageError(f"--weights: expected packed for a packed net, got {weights!r}")
    if packed and args.split != "test":
        raise UsageError("a packed net does not store its training split: evaluate the run, or use --split test")
    net: Any = open_net(args)
    data = load_data(net, args)
    images = getattr(data, args.split)
    if not len(images):
        raise UsageError(f"{data.name} has no {args.split} images in this recipe")
    facts: dict[str, Any] = {**data_facts(data), "split": args.split, "classes": list(data.classes)}
    with progress("evaluating", "images") as bar:
        if weights == "packed":
            from onebit.evaluation.packed_nets import score_packed

            if not packed:
                from onebit.verification.agreement import pack

                net = pack(net.model, classes=data.classes)
            return facts | score_packed(net, images, on_images=bar.update)
        from onebit.evaluation.modes import evaluate, parse_weights, scored_loss
        from onebit.layers import has_unsettled_statistics

        bn, loss = args.bn, net.recipe.loss
        if bn == "auto" and has_unsettled_statistics(net.model):  # training was stopped after few steps
            bn = "reestimate"
        options = {"weights": weights, "train": data.train, "bn": bn, "loss": loss, "seed": args.seed}
        score = evaluate(net.model, images, **options, on_images=bar.update)
    drawn = {"seed": args.seed} if parse_weights(score.weights)[0] == "sample" else {}
    return facts | score.as_dict() | drawn | {"loss_name": scored_loss(score.weights, loss)}
