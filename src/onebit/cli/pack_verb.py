"""`onebit pack`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import load_data, open_trained
from onebit.cli.output import answer_either, progress, say, size
from onebit.cli.parsing import Parser, one_of, output_path, whole_number
from onebit.errors import DataError, UsageError

if TYPE_CHECKING:
    from onebit.packed import PackedNet
    from onebit.runs.run import Run


def main(argv: list[str]) -> int:
    description = "Fold and pack a trained net to one bit per weight, and certify it on its test data."
    parser = Parser("pack", description, "run", "seed", "data", "threads", "json")
    parser.add_argument("-o", "--output", required=True, metavar="NET.1bit")
    parser.add_argument(
        "--weights",
        **one_of("binary", "sample"),
        help="the binary weights, or one random draw (default: binary)",
    )
    parser.add_argument(
        "--images", type=whole_number(1), metavar="N", help="test images to compare, evenly spread (default: all)"
    )
    parser.add_argument(
        "--no-certify", action="store_true", help="do not compare with the trained net: needs no data set"
    )
    args = parser.parse(argv)
    output = output_path(args.output, suffixes=(".1bit",), run=args.run)
    if args.no_certify:
        for flag, given in (("--images", args.images), ("--data", args.data)):
            if given is not None:
                raise UsageError(f"{flag} does not go with --no-certify, which compares nothing")
        if args.weights == "sample":
            raise UsageError(
                "--weights sample needs the training images, for the BatchNorm of the draw: no --no-certify"
            )
    from onebit.packed import costs, infer, save
    from onebit.verification.proof import fold_run

    run = open_trained(args, to_pack=True)
    packed, compared = (fold_run(run, None)[1], {}) if args.no_certify else _certified(run, args)
    save(packed, output)
    certificate = packed.certificate
    rows = costs(packed)
    bits, reals = sum(row.binary_weights for row in rows), sum(row.real_parameters for row in rows)
    count = output.stat().st_size
    ratio = 4 * (bits + reals) / count
    result = {
        "file": args.output,
        "bytes": count,
        "weight_bits": bits,
        "real_parameters": reals,
        "ratio_to_float32": ratio,
        "certificate": None if certificate is None else dataclasses.asdict(certificate),
        "compared": compared,
    }
    text = f"{args.output}: {size(count)}, {bits:,} weights at one bit, {ratio:.1f} times smaller than float32\n"
    if certificate is None:
        text += "not certified: nothing was compared with the trained net"
    else:
        counted = "pixels" if len(infer(packed)[packed.only_output].shape) == 3 else "images"
        text += f"certified on {certificate.in_words(counted)}"
    answer_either(result, text, as_json=args.json)
    return 0 if certificate is None or certificate.label_mismatches == certificate.tied else 1


def _certified(run: Run, args: Any) -> tuple[PackedNet, dict[str, Any]]:
    """The packed net of a run, compared; and how many images (tiles of images with masks) which executor computed."""
    from onebit.runtime import native_plan
    from onebit.verification.proof import pack_run
    from onebit.verification.tally import reference_images

    try:
        data = load_data(run, args.data)
    except (DataError, UsageError) as error:
        raise type(error)(f"{error}; or pack without comparing anything: --no-certify") from None
    compared = 0

    def update(done: int, total: int) -> None:
        nonlocal compared
        if not compared:
            bar.print(f"comparing {total:,} {data.name} test images with torch")
        compared = total
        bar.update(done, total)

    with progress("comparing", "images") as bar:
        packed = pack_run(run, data, weights=args.weights, seed=args.seed, images=args.images, on_images=update)
    if (plan := native_plan(packed)) is None:
        return packed, {"images": compared, "native": None, "numpy": compared}
    share = reference_images(compared)
    say(f"native kernels ({plan.isa.name}) computed all of them, numpy {share:,}, with the same bits")
    return packed, {"images": compared, "native": plan.isa.name, "numpy": share}
