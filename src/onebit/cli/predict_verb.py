"""`onebit predict`. Loads no torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onebit.cli.output import answer_either, say
from onebit.cli.parsing import Parser
from onebit.common.picture_files import as_array, image_files, read_picture
from onebit.errors import UsageError
from onebit.packed import PackedNet, infer
from onebit.runs.folders import is_run_folder
from onebit.runtime import load, run, softmax


def main(argv: list[str]) -> int:
    parser = Parser(
        "predict", "Labels and probabilities of images with a packed net; needs no torch.", "threads", "json"
    )
    parser.add_argument("net", metavar="NET.1bit")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image file, folder, quoted pattern ('photos/*.png'), or - (stdin)"
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="invert the images: for dark strokes on white paper (MNIST is white on black)",
    )
    parser.add_argument(
        "--masks", metavar="DIR", help="for a segmentation net: write the mask of each image here, and a picture"
    )
    args = parser.parse(argv)
    if is_run_folder(Path(args.net)):
        command = shlex.join(["onebit", "pack", args.net, "-o", f"{Path(args.net).resolve().name}.1bit"])
        raise UsageError(f"{args.net} is a run folder, predict takes a packed net; pack it first: {command}")
    net = load(args.net)
    files = image_files(args.images)
    if len(infer(net)[net.only_output].shape) == 3:
        from onebit.cli.masks import write_masks

        return write_masks(net, files, args)
    if args.masks:
        raise UsageError(f"{args.net} gives one label an image, not masks: leave --masks out")
    images = np.stack(_read_images(files, net, invert=args.invert))
    probabilities = softmax(run(net, images))
    labels = probabilities.argmax(axis=1)
    predictions = [
        {
            "file": str(file),
            "label": int(label),
            "name": net.classes[label] if net.classes else str(label),
            "probability": float(row[label]),
        }
        for file, label, row in zip(files, labels, probabilities, strict=True)
    ]
    lines = [f"{found['file']}: {found['name']} ({100 * found['probability']:.1f} %)" for found in predictions]
    answer_either({"net": args.net, "predictions": predictions}, "\n".join(lines), as_json=args.json)
    return 0


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
