"""`onebit data`."""

from __future__ import annotations

from onebit.cli.output import answer_either, download_progress
from onebit.cli.parsing import Parser, whole_number
from onebit.data import fetch_dataset


def parser() -> Parser:
    made = Parser("data", "Find or fetch a data set and check it; decode all images of a folder.", "data", "json")
    made.add_argument("name", help="see onebit list datasets")
    made.add_argument("--input-size", type=whole_number(1), metavar="N", help="resize images to this side in pixels")
    made.add_argument("-j", "--workers", type=whole_number(0), metavar="N", help="decoding threads (one per CPU)")
    made.add_argument("--skip-broken", action="store_true", help="skip images that do not decode")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse(argv)
    with download_progress() as fetched:
        options = {name: getattr(args, name) for name in ("input_size", "workers", "skip_broken")}
        found = fetch_dataset(args.name, directory=args.data, progress=fetched, **options)
    location = f"complete in {found.directory}" if found.directory else "generated, no files"
    lines = [f"{args.name}: {location}", *(f"  {file}" for file in found.files), found.note]
    facts = {"dataset": args.name, "dir": found.directory, "files": list(found.files), "note": found.note}
    answer_either(facts, "\n".join(filter(None, lines)), as_json=args.json)
    return 0
