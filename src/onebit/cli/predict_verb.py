"""`onebit predict`. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onebit.cli.output import answer_either, say
from onebit.cli.parsing import NET_HELP, Parser, whole_number
from onebit.cli.samples import SUFFIXES, described, is_image, read_samples
from onebit.common.pictures import STANDARD_INPUT, PictureReader, image_files
from onebit.errors import DataError, UsageError, escaped
from onebit.packed import PackedNet
from onebit.runtime import load, run, softmax

MAX_SHOWN = 12
"""Values of an output that the text shows; --json has all of them."""


def parser() -> Parser:
    description = "Labels and probabilities, or the values of other outputs, with a packed net; needs no torch."
    made = Parser("predict", description, "threads", "json")
    made.add_argument("net", metavar="NET", help=NET_HELP)
    files = (
        "image file of any size and kind, folder, quoted pattern ('photos/*.png'), or - (stdin); .npy (a sample, or N "
        "of them) or .csv (a sample in each row) for any input"
    )
    made.add_argument("files", metavar="FILE", nargs="+", help=files)
    made.add_argument("--top", type=whole_number(1), metavar="K", help="show the K most probable labels (default: 1)")
    invert = "invert the images: for dark strokes on white paper (MNIST is white on black)"
    made.add_argument("--invert", action="store_true", help=invert)
    masks = "of a segmentation net: folder for a mask and a picture of each image"
    made.add_argument("--masks", metavar="DIR", help=masks)
    made.add_argument("--values", action="store_true", help="print the outputs as numbers instead of labels")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    net = load(args.net)
    shape = net.values[net.output].shape if isinstance(net.output, str) else ()
    line = _line
    if len(shape) == 3 and net.pixels_have_classes(shape[0]) and is_image(net.input) and not args.values:
        from onebit.cli.masks import mask_line, write_masks

        line = mask_line
        predictions, failed = write_masks(net, image_files(args.files), args)
    elif args.masks:
        raise UsageError(f"--masks has no effect: {args.net} predicts no masks of images")
    else:
        facts, samples, failed = _samples(args.files, net, invert=args.invert)
        # a single output is no choice of a label, nor are those of a regression or a multi-label net
        chosen = net.compared == "labels" and len(shape) == 1 and (shape[0] > 1 or bool(net.classes))
        outputs: Any = run(net, np.stack(samples)) if samples else ()
        found = _labels(net, outputs, top=args.top) if chosen and not args.values else _values(net, outputs)
        predictions = list(map(dict.__or__, facts, found))
    if predictions:
        say(net.statement)
    if predictions or args.json:
        answer = {"net": args.net, "predictions": predictions, "failed": failed}
        answer_either(answer, "\n".join(map(line, predictions)), as_json=args.json)
    return DataError.exit_status if failed else 0


def _labels(net: PackedNet, logits: np.ndarray, *, top: int | None) -> Iterator[dict[str, Any]]:
    """The label of the largest logit of each sample; with `top` also that many labels by descending logit."""
    for values, row in zip(logits, softmax(logits), strict=True):
        # not by probability, since float32 rounds small ones to 0; ties as in argmax
        order = np.argsort(-values, kind="stable")[: top or 1].tolist()
        names = net.classes or list(map(str, range(len(row))))
        found = [{"label": label, "name": names[label], "probability": float(row[label])} for label in order]
        yield found[0] | ({"top": found} if top else {})


def _values(net: PackedNet, outputs: Any) -> Iterator[dict[str, Any]]:
    """The outputs of each sample: `values` of the only one, or `outputs` by key or position."""
    arrays = net.by_name(outputs)
    for rows in zip(*(arrays[name].tolist() for name in net.keyed.values()), strict=True):
        by_key = dict(zip(net.keyed, rows, strict=True))
        yield {"values": by_key[""]} if isinstance(net.output, str) else {"outputs": by_key}


def _line(found: dict[str, Any]) -> str:
    """A prediction as text."""
    name = escaped(found["file"]) + (f" [{found['index']}]" if "index" in found else "")
    if "label" in found:
        return f"{name}: " + ", ".join(
            f"{one['name']} ({100 * one['probability']:.1f} %)" for one in found.get("top", [found])
        )
    outputs = found["outputs"].items() if "outputs" in found else [("", found["values"])]
    return f"{name}: " + "; ".join(f"{key} {_numbers(values)}".strip() for key, values in outputs)


def _numbers(values: Any) -> str:
    array = np.array(values, np.float32)
    shown = ", ".join(f"{value:.6g}" for value in array.flat[:MAX_SHOWN])
    more = f", … ({'×'.join(map(str, array.shape))})" if array.size > MAX_SHOWN else ""
    return shown + more


def _samples(words: Sequence[str], net: PackedNet, *, invert: bool) -> tuple[list[dict[str, Any]], list[Any], Any]:
    """The facts of each sample named on the command line; the samples; and the images that do not decode."""
    facts: list[dict[str, Any]] = []
    samples: list[np.ndarray] = []
    image, shape = is_image(net.input), net.input.shape
    if invert and not image:
        raise UsageError(f"--invert is for images, the net takes {described(net.input)}")
    reader = PictureReader(shape[0], (shape[1], shape[2]), invert=invert) if image else None
    for path in image_files(words):
        file: dict[str, Any] = {"file": str(path)} | ({"notes": []} if image else {})
        if path.suffix.lower() in SUFFIXES or (path == STANDARD_INPUT and not image):
            part = read_samples(path, net.input)
            samples += list(255 - part if invert else part)
            facts += [file | {"index": i} for i in range(len(part))] if len(part) > 1 else [file]
        elif reader is None:
            raise UsageError(f"{str(path)!r}: the net takes {described(net.input)}: name .npy or .csv files")
        elif (read := reader.read(path)) is not None:
            samples.append(read.pixels)
            facts.append(file | {"notes": read.notes})
    return facts, samples, reader.failures if reader else []
