"""`onebit pack`."""

from __future__ import annotations

import dataclasses

from onebit.cli.output import answer, answer_json, download_progress, progress, set_threads, size
from onebit.cli.parsing import Parser, add_data, add_json, add_run, add_threads, one_of, output_path, seed


def main(argv: list[str]) -> int:
    parser = Parser("pack", "Fold and pack a trained net to one bit per weight, and certify it on its test data.")
    add_run(parser)
    parser.add_argument("-o", "--output", required=True, metavar="NET.1bit")
    parser.add_argument(
        "--weights",
        **one_of("binary", "sample"),
        help="what ships, or one random draw (default: binary)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the draw (default: 0)")
    add_data(parser)
    add_threads(parser)
    add_json(parser)
    args = parser.parse(argv)
    output = output_path(args.output, suffixes=(".1bit",), run=args.run)
    from onebit.packed import costs, infer, save
    from onebit.proof import pack_run
    from onebit.train.run import open_run
    from onebit.train.run_data import load_run_data

    set_threads()
    run = open_run(args.run, recipe=args.recipe)
    with download_progress() as fetched:
        data = load_run_data(run, directory=args.data, progress=fetched)
    with progress("comparing", "images") as bar:
        packed = pack_run(run, data, weights=args.weights, seed=args.seed, on_images=bar.update)
    save(packed, output)
    assert packed.certificate is not None
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
        "certificate": dataclasses.asdict(certificate),
    }
    if args.json:
        answer_json(result)
    else:
        answer(f"{args.output}: {size(count)}, {bits:,} weights at one bit, {ratio:.1f} times smaller than float32")
        counted = "pixels" if len(infer(packed)[packed.output].shape) == 3 else "images"
        tied = f" ({certificate.tied:,} of them where logits are tied)" if certificate.tied else ""
        answer(
            f"certified on {certificate.count:,} {certificate.dataset} {certificate.split} {counted}: "
            f"{certificate.correct:,} correct with packed weights, {certificate.label_mismatches:,} labels differ from "
            f"torch{tied}, largest logit difference {certificate.max_logit_difference:.3g}"
        )
    return 0 if certificate.label_mismatches == certificate.tied else 1
