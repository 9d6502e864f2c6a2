"""`onebit data`."""

from __future__ import annotations

from onebit.cli.output import answer, answer_json, download_progress
from onebit.cli.parsing import Parser, add_data, add_json
from onebit.data import fetch_dataset


def main(argv: list[str]) -> int:
    parser = Parser("data", "Find or fetch a data set and check it; decode a folder of images into the cache.")
    parser.add_argument("name", help="see onebit list datasets")
    add_data(parser)
    parser.add_argument("--input-size", type=int, metavar="N", help="side in pixels that images are resized to")
    parser.add_argument("-j", "--workers", type=int, metavar="N", help="processes that decode images (one a CPU)")
    parser.add_argument("--skip-broken", action="store_true", help="leave out images that do not decode")
    add_json(parser)
    args = parser.parse(argv)
    with download_progress() as fetched:
        found = fetch_dataset(
            args.name,
            directory=args.data,
            progress=fetched,
            input_size=args.input_size,
            workers=args.workers,
            skip_broken=args.skip_broken,
        )
    if args.json:
        answer_json({"dataset": args.name, "dir": found.directory, "files": list(found.files), "note": found.note})
    elif found.directory:
        answer(f"{args.name}: complete in {found.directory}")
        for file in found.files:
            answer(f"  {file}")
        if found.note:
            answer(found.note)
    else:
        answer(f"{args.name}: generated, no files")
    return 0
