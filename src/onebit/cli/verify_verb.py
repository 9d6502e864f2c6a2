"""`onebit verify`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onebit.cli.inputs import data_facts, load_data, open_net, open_trained
from onebit.cli.output import answer, answer_either, progress, say
from onebit.cli.parsing import Parser
from onebit.errors import FoldError, NotBinaryError, UsageError
from onebit.nets import is_packed

if TYPE_CHECKING:
    from onebit.data import Dataset
    from onebit.evaluation.forward import OnImages
    from onebit.packed import PackedNet
    from onebit.runs.opening import Run
    from onebit.verification.proof import Claim


def parser() -> Parser:
    description = (
        "The whole proof of a trained net: latent weights, binarized weights, their accuracy, the reload into plain "
        "torch layers, the packed net. For a packed net: the accuracy in its certificate and card, with --source the "
        "whole certificate. Exit status 1 when a claim does not hold."
    )
    made = Parser("verify", description, "run-or-net", "recipe", "model", "dataset", "data", "threads", "json")
    made.add_argument("--source", metavar="RUN", help="for a packed net: the run it was packed from")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    done = []
    about: dict[str, str] = {}
    with progress("verifying", "images") as bar:
        for step in _steps(args, bar.update, about):
            done.append(step)
            bar.close()  # the next claim opens it again
            if not args.json:
                answer(f"{'ok  ' if step.ok else 'FAIL'}  {step.name}: {step.detail}")
    ok = all(step.ok for step in done)
    facts = {"ok": ok, **about, "steps": [dataclasses.asdict(step) for step in done]}
    answer_either(facts, f"{sum(step.ok for step in done)} of {len(done)} claims hold", as_json=args.json)
    return 0 if ok else 1


def _steps(args: Any, on_images: OnImages, about: dict[str, str]) -> Iterator[Claim]:
    """The claims, or a failed one for weights that are not binary; facts about the data go into `about`."""
    from onebit.verification.proof import Claim, prove_packed, prove_run
    from onebit.verification.run_packing import on_raw_images

    if args.source and not is_packed(args.run):
        raise UsageError(f"--source is for a packed net, got {args.run}")
    try:
        net: Any = open_net(args)
        if is_packed(args.run):
            source, data = _compared(net, args)
            about.update(data_facts(data) if data is not None else {})
            yield from prove_packed(net, data, source=source, on_images=on_images)
        else:
            run = on_raw_images(net)
            data = load_data(run, args)
            about.update(data_facts(data))
            yield from prove_run(run, data, on_images=on_images)
    except (FoldError, NotBinaryError) as error:
        yield Claim("binary", False, str(error))


def _compared(net: PackedNet, args: Any) -> tuple[Run | None, Dataset | None]:
    """The run of `--source` or None, and the data to compare a packed net on or None."""
    from onebit.data import with_classes
    from onebit.packed import Card
    from onebit.verification.run_packing import on_raw_images

    if net.certificate is None and not args.source:
        raise UsageError(f"{args.run} has no certificate: add --source RUN, the run it was packed from")
    source = on_raw_images(open_trained(args, args.source)) if args.source else None
    if net.certificate is None and "packed" not in (net.card or Card()).test:
        say(f"note: {args.run} has no certificate: no images are compared")
        return source, None
    if source is None:
        say("note: only --source RUN recomputes the comparison with torch in the certificate")
        return None, load_data(net, args)
    return source, with_classes(load_data(source, args), net.classes, source=args.run)
