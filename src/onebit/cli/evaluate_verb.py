"""`onebit evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebit.cli.output import answer, answer_json, download_progress, percent, progress, say, set_threads
from onebit.cli.parsing import Parser, add_data, add_json, add_run, add_threads, one_of, seed
from onebit.data import (
    Dataset,
    Split,
    by_pixel,
    confusion_matrix,
    fitted_to,
    load_dataset,
    mask_facts,
    refuse_other_classes,
)
from onebit.errors import UsageError
from onebit.packed import infer

if TYPE_CHECKING:
    from onebit.packed import PackedNet
    from onebit.runs.run import Run


def main(argv: list[str]) -> int:
    parser = Parser("evaluate", "Accuracy on a data set in a stated test mode, in float32.")
    add_run(parser)
    parser.add_argument(
        "--weights",
        metavar="MODE",
        help="latent, binary, mean, sample, ensemble:N or packed (default: binary; packed for a .1bit file)",
    )
    parser.add_argument("--split", **one_of("test", "validation", "train"), help="images (default: test)")
    parser.add_argument(
        "--bn",
        **one_of("auto", "trained", "reestimate"),
        help="BatchNorm statistics: of training, or re-estimated on training images with these weights "
        "(auto: re-estimated in modes that were not trained in)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="another data set than the recipe's")
    parser.add_argument("--seed", type=seed, default=0, help="of random draws (default: 0)")
    add_data(parser)
    add_threads(parser)
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
    show(_packed_file(args) if packed else _run(args, weights), as_json=args.json)
    return 0


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Answer what `evaluate_run` found."""
    if as_json:
        answer_json(result)
        return
    say(f"{result['dataset']} from {result['directory'] or 'memory'}")
    if result["note"]:
        say(f"note: {result['note']}")
    bn = "" if result["bn"] == "trained" else ", BatchNorm re-estimated"
    masks = f", mean IoU {result['mean_iou']:.4f}, Dice {result['dice']:.4f}" if "mean_iou" in result else ""
    answer(
        f"accuracy {percent(result['accuracy'])} ({result['correct']:,} of {result['count']:,}) on "
        f"{result['dataset']} {result['split']} with {result['weights']} weights{bn}{masks}; "
        f"{result['loss_name']} {result['loss']:.4f}, entropy {result['entropy']:.4f} nats, "
        f"calibration error {percent(result['ece'])}"
    )


def _note_on_draws(run: Run, weights: str) -> str:
    """What must be said of draws from latents that were trained for their signs alone; "" of any other test mode."""
    from onebit.evaluation.modes import parse_weights
    from onebit.layers import binary_layers

    quantizers = [layer.weight_quantizer for _, layer in binary_layers(run.model)]
    if parse_weights(weights)[0] != "sample" or all(q is not None and q.random for q in quantizers):
        return ""
    return f"{weights} draws from latents that were trained without draws: they are no probabilities of the signs"


def choose_split(data: Dataset, name: str) -> Split:
    """A split by name.

    Raises:
        UsageError: the data set has no such images.
    """
    split: Split = getattr(data, name)
    if not len(split):
        raise UsageError(f"{data.name} has no {name} images in this recipe")
    return split


def _packed_file(args: Any) -> dict[str, Any]:
    """Evaluate a .1bit file without torch."""
    from onebit.runtime import load

    net = load(args.run)
    name = args.dataset or (net.certificate.dataset if net.certificate else None)
    if name is None:
        raise UsageError(f"{args.run} carries no certificate that names its data; name it with --dataset")
    with download_progress() as fetched:
        data = load_dataset(name, input_size=square_side(net), directory=args.data, progress=fetched)
    refuse_other_classes(data, net.classes, source=args.run)
    return {**_named(data, args.split), **score_packed(net, choose_split(data, args.split))}


def square_side(net: PackedNet) -> int | None:
    """The side of the square images that a net takes, to which a data set is resized; None for others.

    A net that gives masks takes images of any size, in tiles.
    """
    _, height, width = net.input.shape
    return height if height == width and len(infer(net)[net.output].shape) == 1 else None


def _named(data: Dataset, split: str) -> dict[str, str]:
    """What was evaluated on, and what must be said beside the numbers."""
    return {"dataset": data.name, "directory": data.directory, "split": split, "note": data.note}


def score_packed(net: Any, split: Split) -> dict[str, Any]:
    """Counts, cross-entropy and calibration of a packed net on a split, by the executor of `onebit.runtime`."""
    import numpy as np

    from onebit.evaluation.calibration import calibration_error, confidence_gaps
    from onebit.runtime import run

    split = fitted_to(net, split)
    with progress("evaluating", "images") as bar:
        logits = run(net, split.images, on_images=bar.update).astype(np.float64)
    logits, labels = by_pixel(logits, split.labels)
    predicted = logits.argmax(axis=1)
    correct = int((predicted == labels).sum())
    peak = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    count = len(labels)
    loss = float((log_sum - logits[np.arange(count), labels]).mean())
    entropy, gaps = confidence_gaps(logits, labels)
    masked = split.labels.ndim > 1
    return {
        "weights": "packed",
        "bn": "trained",
        "correct": correct,
        "count": count,
        "accuracy": correct / count,
        "error": 1 - correct / count,
        "loss": loss,
        "entropy": entropy,
        "ece": calibration_error(gaps, count),
        **(mask_facts(confusion_matrix(labels, predicted, classes=logits.shape[1])) if masked else {}),
        "loss_name": "cross_entropy",
    }


def _run(args: Any, weights: str) -> dict[str, Any]:
    from onebit.evaluation.modes import parse_weights
    from onebit.runs.run import open_run

    if weights != "packed":
        parse_weights(weights)  # a wrong mode is told before anything is loaded
    set_threads()
    run = open_run(args.run, recipe=args.recipe)
    return evaluate_run(
        run,
        weights=weights,
        split=args.split,
        bn=args.bn,
        dataset=args.dataset,
        data_folder=args.data,
        draw_seed=args.seed,
    )


def evaluate_run(
    run: Run,
    *,
    weights: str,
    split: str = "test",
    bn: str = "auto",
    dataset: str | None = None,
    data_folder: str | None = None,
    draw_seed: int = 0,
) -> dict[str, Any]:
    """Counts, accuracy and loss of a trained net, with progress.

    Args:
        weights: the test mode, "packed" included. split, bn: see `onebit.evaluate`.
        dataset: another one than the recipe's.
        data_folder: folder of data sets. draw_seed: of random draws.
    """
    from onebit.evaluation.modes import evaluate
    from onebit.runs.run_data import load_run_data

    recipe = run.recipe
    with download_progress() as fetched:
        data = load_run_data(run, dataset=dataset, directory=data_folder, progress=fetched)
    images = choose_split(data, split)
    named = _named(data, split)
    if weights == "packed":
        from onebit.fold import pack

        return {**named, **score_packed(pack(run.model, classes=data.classes), images)}
    with progress("evaluating", "images") as bar:
        score = evaluate(
            run.model,
            images,
            weights=weights,
            train=data.train,
            bn=bn,
            loss=recipe.loss,
            seed=draw_seed,
            on_images=bar.update,
        )
    named["note"] = "; ".join(filter(None, [data.note, _note_on_draws(run, weights)]))
    # the mean of several draws is a probability, which has a cross-entropy but no margins
    loss_name = "cross_entropy" if weights.startswith("ensemble") else recipe.loss
    return {**named, **score.as_dict(), "loss_name": loss_name}
