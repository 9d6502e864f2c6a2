"""`onebit evaluate`."""

from __future__ import annotations

from typing import Any

from onebit.cli.output import answer, answer_json, download_progress, percent, progress, say, set_threads
from onebit.cli.parsing import Parser, add_data, add_json, add_run, seed
from onebit.data import Dataset, Split, load_dataset
from onebit.errors import UsageError


def main(argv: list[str]) -> int:
    parser = Parser("evaluate", "Accuracy on a data set in a stated test mode, in float32.")
    add_run(parser)
    parser.add_argument(
        "--weights",
        metavar="MODE",
        help="latent, binary, sample, ensemble:N or packed (default: binary; packed for a .1bit file)",
    )
    parser.add_argument("--split", choices=("test", "validation", "train"), default="test")
    parser.add_argument(
        "--bn",
        choices=("auto", "trained", "reestimate"),
        default="auto",
        help="BatchNorm statistics: of training, or re-estimated on training images with these weights "
        "(auto: re-estimated in modes that were not trained in)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="another data set than the recipe's")
    parser.add_argument("--seed", type=seed, default=0, help="of random draws (default: 0)")
    add_data(parser)
    add_json(parser)
    args = parser.parse(argv)
    packed = args.run.endswith(".1bit")
    weights = args.weights or ("packed" if packed else "binary")
    if packed and weights != "packed":
        raise UsageError(f"{args.run} is a packed net: its only test mode is packed, got {weights!r}")
    if weights == "packed" and args.bn != "auto":
        raise UsageError("--bn does not apply to packed weights: their BatchNorm is folded away")
    if packed and args.split != "test":
        raise UsageError("a packed net does not know the split of its training: evaluate the run, or --split test")
    result = _packed_file(args) if packed else _run(args, weights)
    if args.json:
        answer_json(result)
    else:
        if result["note"]:
            say(f"note: {result['note']}")
        bn = "" if result["bn"] == "trained" else ", BatchNorm re-estimated"
        answer(
            f"accuracy {percent(result['accuracy'])} ({result['correct']:,} of {result['count']:,}) on "
            f"{result['dataset']} {result['split']} with {result['weights']} weights{bn}; "
            f"{result['loss_name']} {result['loss']:.4f}"
        )
    return 0


def choose_split(data: Dataset, name: str) -> Split:
    """A split by name.

    Raises:
        UsageError: the data set has no such images.
    """
    split: Split = getattr(data, name)
    if not len(split):
        raise UsageError(f"{data.name} has no {name} images in this recipe")
    return split


def _load(name: str, args: Any, **options: Any) -> Dataset:
    with download_progress() as fetched:
        return load_dataset(name, directory=args.data, progress=fetched, **options)


def _packed_file(args: Any) -> dict[str, Any]:
    """Evaluate a .1bit file without torch."""
    from onebit.runtime import load

    net = load(args.run)
    name = args.dataset or (net.certificate.dataset if net.certificate else None)
    if name is None:
        raise UsageError(f"{args.run} carries no certificate that names its data; name it with --dataset")
    data = _load(name, args)
    return {**_named(data, args.split), **score_packed(net, choose_split(data, args.split))}


def _named(data: Dataset, split: str) -> dict[str, str]:
    """What was evaluated on, and what must be said beside the numbers."""
    return {"dataset": data.name, "split": split, "note": data.note}


def score_packed(net: Any, split: Split) -> dict[str, Any]:
    """Counts and cross-entropy of a packed net on a split, by the executor of `onebit.runtime`."""
    import numpy as np

    from onebit.runtime import run

    with progress("evaluating", "images") as bar:
        logits = run(net, split.images, on_images=bar.update).astype(np.float64)
    correct = int((logits.argmax(axis=1) == split.labels).sum())
    peak = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    loss = float((log_sum - logits[np.arange(len(split)), split.labels]).mean())
    count = len(split)
    return {
        "weights": "packed",
        "bn": "trained",
        "correct": correct,
        "count": count,
        "accuracy": correct / count,
        "error": 1 - correct / count,
        "loss": loss,
        "loss_name": "cross_entropy",
    }


def _run(args: Any, weights: str) -> dict[str, Any]:
    from onebit.evaluation import evaluate, parse_weights
    from onebit.train.run import open_run

    if weights != "packed":
        parse_weights(weights)  # a wrong mode is told before anything is loaded
    set_threads()
    run = open_run(args.run, recipe=args.recipe)
    recipe = run.recipe
    data = _load(
        args.dataset or recipe.dataset,
        args,
        **({} if args.dataset else {"validation": recipe.validation, "split_seed": recipe.split_seed}),
    )
    split = choose_split(data, args.split)
    named = _named(data, args.split)
    if weights == "packed":
        from onebit.fold import pack

        return {**named, **score_packed(pack(run.model, classes=data.classes), split)}
    with progress("evaluating", "images") as bar:
        score = evaluate(
            run.model,
            split,
            weights=weights,
            train=data.train,
            bn=args.bn,
            loss=recipe.loss,
            seed=args.seed,
            on_images=bar.update,
        )
    # the mean of several draws is a probability, which has a cross-entropy but no margins
    loss_name = "cross_entropy" if weights.startswith("ensemble") else recipe.loss
    return {**named, **score.as_dict(), "loss_name": loss_name}
