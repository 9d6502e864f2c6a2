"""`onebit pack`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import load_data, open_trained
from onebit.cli.output import answer_either, percent, progress, say
from onebit.cli.parsing import Parser, refuse_trained, whole_number
from onebit.common.text import size
from onebit.errors import UsageError

if TYPE_CHECKING:
    from onebit.packed import Certificate, PackedNet
    from onebit.runs.opening import Run


def parser() -> Parser:
    description = "Fold and pack a trained net to one bit per weight, and certify it on its test data."
    made = Parser("pack", description, "run", "recipe", "model", "dataset", "seed", "data", "threads", "json")
    made.add_argument("-o", "--output", required=True, metavar="NET.1bit")
    made.add_argument("--weights", choices=("binary", "sample"), default="binary", help="sample: one random draw")
    any_size = "any: a fully convolutional net takes images of any size (default: fixed)"
    made.add_argument("--sizes", choices=("fixed", "any"), default="fixed", help=any_size)
    count = whole_number(1)
    made.add_argument("--images", type=count, metavar="N", help="test images to compare, evenly spread (default: all)")
    made.add_argument("--no-certify", action="store_true", help="compare nothing: needs no data set")
    rounding = "bits of the activations: an integer net, with ranges found on training images"
    made.add_argument("--activations", type=int, choices=(8, 4, 2), help=rounding)
    calibration = "training images to find the ranges on, evenly spread (default: 500)"
    made.add_argument("--calibration", type=count, metavar="N", help=calibration)
    drop = "percentage points of accuracy that rounding the activations may cost (default: 0.5)"
    made.add_argument("--allow-drop", type=float, default=0.5, metavar="POINTS", help=drop)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    output = refuse_trained(args.output, run=args.run)
    if args.no_certify and (args.activations is not None or args.weights == "sample"):
        raise UsageError("--no-certify excludes --activations and --weights sample, which need training images")
    from onebit.packed import costs, save
    from onebit.packed.certificate import PROMISES
    from onebit.packed.net import float32_bytes
    from onebit.runs.card import run_card
    from onebit.verification.run_packing import fold_run, on_raw_images

    trained = open_trained(args, args.run)
    run = on_raw_images(trained)
    packed, compared, ranges = (
        (fold_run(run, None, sizes=args.sizes)[1], {}, {}) if args.no_certify else _certified(run, args)
    )
    certificate = packed.certificate
    if not (lost := _lost(certificate)) <= args.allow_drop:
        say(f"onebit: rounding costs {lost:.2f} points of accuracy, more than {args.allow_drop:g}: nothing is written")
        return 1
    card = run_card(trained, certificate, other_files=bool(compared.get("other_files")))
    packed = dataclasses.replace(packed, card=card)
    save(packed, output)
    rows = costs(packed)
    bits, count = sum(row.binary_weights for row in rows), output.stat().st_size
    ratio = float32_bytes(packed) / count
    result = {
        "file": args.output,
        "bytes": count,
        "weight_bits": bits,
        "real_parameters": sum(row.real_parameters for row in rows),
        "ratio_to_float32": ratio,
        "certificate": None if certificate is None else certificate.as_dict(),
        "promise": packed.promise if certificate else None,
        "compared": compared,
        **({} if args.activations is None else {"activations": args.activations, "ranges": ranges}),
    }
    text = f"{args.output}: {size(count)}, {bits:,} weights at one bit, {ratio:.1f} times smaller than float32\n"
    text += packed.statement
    if certificate is not None:
        text += f"\n{packed.promise}: {PROMISES[packed.promise]}"
    answer_either(result, text, as_json=args.json)
    return 0


def _lost(made: Certificate | None) -> float:
    """Percentage points of accuracy that rounding the activations costs."""
    if made is None or made.activations is None or made.correct is None or made.model_correct is None:
        return 0.0
    return 100 * (made.model_correct - made.correct) / made.count


def _certified(run: Run, args: Any) -> tuple[PackedNet, dict[str, Any], dict[str, Any]]:
    """The certified packed net of a run, how many images (tiles of masks) each executor computed, and the ranges."""
    from onebit.runs.opening import OTHER_FILES
    from onebit.runtime import native_plan
    from onebit.verification.run_packing import CALIBRATION, Rounding, pack_run
    from onebit.verification.sample_comparison import reference_images

    data = load_data(run, args)
    ranges: dict[str, Any] = {}

    def state(found: Any) -> None:
        ranges.update({name: made._asdict() for name, made in found.ranges.items()})
        most = f"no activation tensor has more than {percent(found.beyond)} of its entries clipped"
        say(f"activations rounded to {args.activations} bits: {most}")

    bits = args.activations
    rounding = None if bits is None else Rounding(bits, args.calibration or CALIBRATION, state)
    options = {"weights": args.weights, "seed": args.seed, "sizes": args.sizes, "images": args.images}
    totals: list[int] = []
    with progress("comparing", "images", lambda _, total: totals.append(total), verbose=True) as bar:
        packed = pack_run(run, data, on_images=bar.update, rounding=rounding, **options)
    compared, others = totals[-1], OTHER_FILES in data.note
    facts: dict[str, Any] = {"images": compared, "native": None, "numpy": compared, "other_files": others}
    if (plan := native_plan(packed)) is not None:
        facts |= {"native": plan.isa.name, "numpy": reference_images(compared)}
    return packed, facts, ranges
