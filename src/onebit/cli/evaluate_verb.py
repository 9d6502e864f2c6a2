"""`onebit evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import data_facts, load_data, load_data_of_net, open_trained
from onebit.cli.output import answer_either, percent, progress
from onebit.cli.parsing import Parser
from onebit.data import Dataset, Split
from onebit.errors import UsageError
from onebit.nets import is_packed

if TYPE_CHECKING:
    from onebit.packed import PackedNet


def parser() -> Parser:
    shared = ("run-or-net", "dataset", "seed", "data", "threads", "json")
    made = Parser("evaluate", "Accuracy on a data set in a stated test mode, in float32.", *shared)
    modes = "latent, binary, mean, sample, ensemble:N or packed (default: binary; packed for a packed net)"
    made.add_argument("--weights", metavar="MODE", help=modes)
    made.add_argument("--split", choices=("test", "validation", "train"), default="test", help="images (default: test)")
    statistics = (
        "BatchNorm statistics: trained, as the file has them, or re-estimated on training images with these weights "
        "(auto: re-estimated where those of the file belong to other weights)"
    )
    made.add_argument("--bn", choices=("auto", "trained", "reestimate"), default="auto", help=statistics)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    packed = is_packed(args.run)
    weights = args.weights or ("packed" if packed else "binary")
    if packed and weights != "packed":
        raise UsageError(f"{args.run} is a packed net: its only test mode is packed, got {weights!r}")
    if packed and args.split != "test":
        raise UsageError("a packed net does not know the split of its training: evaluate the run, or --split test")
    found = _packed_file(args) if packed else _run(args, weights)
    bn = "" if found["bn"] == "trained" else ", BatchNorm re-estimated"
    seed = f", seed {found['seed']}" if "seed" in found else ""
    masks = f", mean IoU {found['mean_iou']:.4f}, Dice {found['dice']:.4f}" if "mean_iou" in found else ""
    text = (
        f"accuracy {percent(found['accuracy'])} ({found['correct']:,} of {found['count']:,}) on "
        f"{found['dataset']} {found['split']} with {found['weights']} weights{seed}{bn}{masks}; "
        f"{found['loss_name']} {found['loss']:.4f}, entropy {found['entropy']:.4f} nats, "
        f"calibration error {percent(found['ece'])}"
    )
    answer_either(found, text, as_json=args.json)
    return 0


def _images(data: Dataset, split: str) -> tuple[Split, dict[str, str]]:
    """The images of a split, and which ones they are; UsageError if there are none."""
    images: Split = getattr(data, split)
    if not len(images):
        raise UsageError(f"{data.name} has no {split} images in this recipe")
    return images, {**data_facts(data), "split": split}


def _packed_file(args: Any) -> dict[str, Any]:
    """Evaluate a .1bit file without torch."""
    from onebit.runtime import load

    net = load(args.run)
    name = args.dataset or (net.certificate.dataset if net.certificate else None)
    if name is None:
        raise UsageError(f"{args.run} carries no certificate that names its data; name it with --dataset")
    images, facts = _images(load_data_of_net(net, name, args), args.split)
    return facts | _score_packed(net, images)


def _score_packed(net: PackedNet, images: Split) -> dict[str, Any]:
    from onebit.evaluation.packed_nets import score_packed

    with progress("evaluating", "images") as bar:
        return score_packed(net, images, on_images=bar.update)


def _run(args: Any, weights: str) -> dict[str, Any]:
    """Evaluate a run in a test mode, "packed" included."""
    from onebit.evaluation.modes import evaluate, parse_weights, scored_loss
    from onebit.layers import has_unsettled_statistics

    run = open_trained(args, args.run)
    data = load_data(run, args.data, dataset=args.dataset)
    images, facts = _images(data, args.split)
    if weights == "packed":
        from onebit.fold import pack

        return facts | _score_packed(pack(run.model, classes=data.classes), images)
    bn, loss = args.bn, run.recipe.loss
    if bn == "auto" and has_unsettled_statistics(run.model):  # of a training that was stopped after few steps
        bn = "reestimate"
    options = {"weights": weights, "train": data.train, "bn": bn, "loss": loss, "seed": args.seed}
    with progress("evaluating", "images") as bar:
        score = evaluate(run.model, images, **options, on_images=bar.update)
    drawn = {"seed": args.seed} if parse_weights(score.weights)[0] == "sample" else {}
    return facts | score.as_dict() | drawn | {"loss_name": scored_loss(score.weights, loss)}
