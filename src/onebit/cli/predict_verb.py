"""`onebit predict`. Loads no torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from os.path import isdir
from pathlib import Path
from typing import Any

import numpy as np

from onebit.cli.output import answer_either, say
from onebit.cli.parsing import NET_HELP, Parser
from onebit.cli.samples import SUFFIXES, in_words, is_image, read_samples
from onebit.common.picture_files import STANDARD_INPUT, as_array, image_files, read_picture
from onebit.errors import UsageError
from onebit.nets import is_packed
from onebit.packed import PackedNet, infer
from onebit.runs.folders import is_run_folder
from onebit.runtime import load, run, softmax

MOST_SHOWN = 12
"""Values of an output that the text shows; --json has all of them."""


def main(argv: list[str]) -> int:
    parser = Parser(
        "predict",
        "Labels and probabilities, or the values of other outputs, with a packed net; needs no torch.",
        *("threads", "json"),
    )
    parser.add_argument("net", metavar="NET", help=NET_HELP)
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="image file, folder, quoted pattern ('photos/*.png'), or - (stdin); .npy (a sample, or N of them) or .csv "
        "(a sample in each row) for any input",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="invert the images: for dark strokes on white paper (MNIST is white on black)",
    )
    parser.add_argument(
        "--masks", metavar="DIR", help="for a segmentation net: write the mask of each image here, and a picture"
    )
    parser.add_argument(
        "--values", action="store_true", help="the outputs as numbers, as of a regression, instead of labels"
    )
    args = parser.parse(argv)
    if not is_packed(args.net) and is_run_folder(Path(args.net)):
        command = shlex.join(["onebit", "pack", args.net, "-o", f"{Path(args.net).resolve().name}.1bit"])
        raise UsageError(f"{args.net} is a run folder, predict takes a packed net; pack it first: {command}")
    net = load(args.net)
    shapes = infer(net)
    shape = shapes[net.output].shape if isinstance(net.output, str) else ()
    if len(shape) == 3 and is_image(net.input) and not args.values:
        from onebit.cli.masks import write_masks

        say(_certified(net, "pixels"))
        return write_masks(net, image_files(args.files), args)
    if args.masks:
        raise UsageError(f"{args.net} gives no mask of an image: leave --masks out")
    names, samples = _samples(args.files, net, invert=args.invert)
    outputs = run(net, samples)
    # a single number chooses between nothing
    labeled = len(shape) == 1 and (shape[0] > 1 or bool(net.classes)) and not args.values
    found = _labels(net, outputs) if labeled else _values(net, outputs)
    predictions = [{**name, **facts} for name, facts in zip(names, found, strict=True)]
    say(_certified(net, "labels"))
    text = "\n".join(map(_line, predictions))
    answer_either({"net": args.net, "predictions": predictions}, text, as_json=args.json)
    return 0


def _certified(net: PackedNet, counted: str) -> str:
    """What the certificate says about the packed net and the net as it was trained."""
    if net.certificate is None:
        return "not certified: nothing was compared with the net as it was trained"
    made = net.certificate
    own_data = made.trained_mismatches is not None or not made.split  # a data set by name has no outside preprocessing
    return f"certified on {made.in_words(counted)}" + (f"; {made.against}" if own_data else "")


def _labels(net: PackedNet, logits: np.ndarray) -> Iterator[dict[str, Any]]:
    probabilities = softmax(logits)
    for row in probabilities:
        label = int(row.argmax())
        name = net.classes[label] if net.classes else str(label)
        yield {"label": label, "name": name, "probability": float(row[label])}


def _values(net: PackedNet, outputs: Any) -> Iterator[dict[str, Any]]:
    """The outputs of each sample: `values` of the only one, or `outputs` by key or position."""
    if isinstance(net.output, str):
        yield from ({"values": row.tolist()} for row in outputs)
        return
    by_name = outputs if isinstance(outputs, dict) else dict(zip(map(str, range(len(outputs))), outputs, strict=True))
    for i in range(len(next(iter(by_name.values())))):
        yield {"outputs": {key: array[i].tolist() for key, array in by_name.items()}}


def _line(found: dict[str, Any]) -> str:
    """A prediction as text."""
    name = found["file"] + (f" [{found['index']}]" if "index" in found else "")
    if "label" in found:
        return f"{name}: {found['name']} ({100 * found['probability']:.1f} %)"
    outputs = found["outputs"].items() if "outputs" in found else [("", found["values"])]
    return f"{name}: " + "; ".join(f"{key} {_numbers(values)}".strip() for key, values in outputs)


def _numbers(values: Any) -> str:
    array = np.array(values, np.float32)
    shown = ", ".join(f"{value:.6g}" for value in array.flat[:MOST_SHOWN])
    more = f", … ({'×'.join(map(str, array.shape))})" if array.size > MOST_SHOWN else ""
    return shown + more


def _samples(words: Sequence[str], net: PackedNet, *, invert: bool) -> tuple[list[dict[str, Any]], np.ndarray]:
    """All samples that words of the command line name, and the file of each; its place in a file of several.

    Raises:
        UsageError: files that the net does not take.
    """
    names: list[dict[str, Any]] = []
    parts: list[np.ndarray] = []
    images: list[Path] = []
    image = is_image(net.input)
    for path in [
        found for word in words for found in (image_files([word]) if image or not isdir(word) else [Path(word)])
    ]:
        if path.suffix in SUFFIXES or (path == STANDARD_INPUT and not image):
            part = read_samples(path, net.input)
            parts.append(255 - part if invert and image else part)
            several = len(part) > 1
            names += [{"file": str(path)} | ({"index": i} if several else {}) for i in range(len(part))]
        elif image:
            images.append(path)
            names.append({"file": str(path)})
            parts.append(np.empty((0, *net.input.shape), np.uint8))
        else:
            raise UsageError(f"{str(path)!r}: the net takes {in_words(net.input)}: name .npy or .csv files")
    if invert and not image:
        raise UsageError(f"--invert is for images, the net takes {in_words(net.input)}: leave it out")
    if images:
        pixels = iter(_read_images(images, net, invert=invert))
        parts = [part if len(part) else next(pixels)[np.newaxis] for part in parts]
    return names, np.concatenate(parts)


def _read_images(files: Sequence[Path], net: PackedNet, *, invert: bool) -> list[Any]:
    """Image files as uint8 (C, H, W) in the shape the net takes; an image of another shape is cropped and resized."""
    from PIL import Image, ImageOps

    _, height, width = net.input.shape
    images, resized = [], []
    for path in files:
        pixels = read_picture(path, net.input.shape[0])
        if pixels.size != (width, height):
            resized.append(f"{path}: resized from {pixels.width}×{pixels.height} to {width}×{height}")
            pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BILINEAR)
        array = as_array(pixels)
        images.append(255 - array if invert else array)
    if resized:
        say(resized[0] + (f", and {len(resized) - 1:,} other images to that size" if len(resized) > 1 else ""))
    return images
