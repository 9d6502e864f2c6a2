"""`onebit predict`. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onebit.cli.images import as_array, read_picture
from onebit.cli.output import answer, answer_json, say
from onebit.cli.parsing import Parser, add_json, add_threads
from onebit.errors import UsageError
from onebit.packed import PackedNet, infer
from onebit.runtime import load, run, softmax


def main(argv: list[str]) -> int:
    parser = Parser("predict", "Labels and probabilities of images with a packed net; needs no torch.")
    parser.add_argument("net", metavar="NET.1bit")
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    parser.add_argument(
        "--invert", action="store_true", help="for dark strokes on white paper: MNIST is white on black"
    )
    parser.add_argument(
        "--masks", metavar="DIR", help="of a net for segmentation: write the mask of each image there, and a picture"
    )
    add_threads(parser)
    add_json(parser)
    args = parser.parse(argv)
    net = load(args.net)
    if len(infer(net)[net.output].shape) == 3:
        from onebit.cli.masks import write_masks

        return write_masks(net, args)
    if args.masks:
        raise UsageError(f"{args.net} gives one label an image, not masks: leave --masks out")
    images = np.stack([read_image(Path(file), net, invert=args.invert) for file in args.images])
    probabilities = softmax(run(net, images))
    labels = probabilities.argmax(axis=1)
    predictions = [
        {
            "file": file,
            "label": int(label),
            "name": net.classes[label] if net.classes else str(label),
            "probability": float(row[label]),
        }
        for file, label, row in zip(args.images, labels, probabilities, strict=True)
    ]
    if args.json:
        answer_json({"net": args.net, "predictions": predictions})
    else:
        for found in predictions:
            answer(f"{found['file']}: {found['name']} ({100 * found['probability']:.1f} %)")
    return 0


def read_image(path: Path, net: PackedNet, *, invert: bool = False) -> Any:
    """An image file as uint8 (C, H, W) in the shape the net takes: where it has another, its centre, resized.

    Raises:
        UsageError: not there, or a net whose channels no image has. DataError: not an image.
    """
    from PIL import Image, ImageOps

    _, height, width = net.input.shape
    pixels = read_picture(path, net)
    if pixels.size != (width, height):
        say(f"{path}: resized from {pixels.width}×{pixels.height} to {width}×{height}")
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BILINEAR)
    array = as_array(pixels)
    return 255 - array if invert else array
