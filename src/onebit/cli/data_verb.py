"""`onebit data`."""

from __future__ import annotations

from onebit.cli.output import answer, answer_json, download_progress
from onebit.cli.parsing import Parser, add_data, add_json
from onebit.data import fetch_dataset


def main(argv: list[str]) -> int:
    parser = Parser("data", "Find or fetch a data set and check every byte of it.")
    parser.add_argument("name", help="see onebit list datasets")
    add_data(parser)
    add_json(parser)
    args = parser.parse(argv)
    with download_progress() as fetched:
        found = fetch_dataset(args.name, directory=args.data, progress=fetched)
    if args.json:
        answer_json({"dataset": args.name, "dir": found.directory, "files": list(found.files)})
    elif found.files:
        answer(f"{args.name}: complete and undamaged in {found.directory}")
        for file in found.files:
            answer(f"  {file}")
    else:
        answer(f"{args.name}: generated, no files")
    return 0
