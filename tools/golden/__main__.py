"""Compare two versions of onebit on this machine: `python -m tools.golden [TAG [HEAD]] [--time]`; `.` is this tree."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "golden"


class Side:
    """One version: its sources, its native library, and a folder of its results."""

    def __init__(self, name: str, folder: Path, *, keep: bool = False) -> None:
        self.name, self.folder = name, folder
        if keep:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        parts = ["src", "tests", "CMakeLists.txt"]
        if name == ".":
            for part in parts:
                copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
                copy(ROOT / part, self.folder / part)
        else:
            archive = subprocess.run(["git", "archive", name, *parts], cwd=ROOT, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "-C", self.folder], input=archive, check=True)
        shutil.copy(self._kernels(), self.folder / "src/onebit/native/kernels.so")

    def _kernels(self) -> Path:
        """The library, built once for each content of its sources."""
        sources = sorted((self.folder / "src/onebit/native/csrc").rglob("*"))
        content = b"".join(path.read_bytes() for path in [self.folder / "CMakeLists.txt", *sources] if path.is_file())
        built = BUILD / f"kernels-{hashlib.sha256(content).hexdigest()[:16]}.so"
        if not built.is_file():
            place = self.folder / "build"
            for command in (["-S", self.folder, "-B", place, "-DCMAKE_BUILD_TYPE=Release"], ["--build", place, "-j4"]):
                subprocess.run(["cmake", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
            shutil.copy(place / "kernels.so", built)
        return built

    @property
    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": f"{HERE / 'site'}:{self.folder / 'src'}", "OMP_NUM_THREADS": "1"}
        data = {"ONEBIT_DATA": str(BUILD / "no-data"), "ONEBIT_CACHE": str(self.folder / "cache")}
        offline = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
        return {**os.environ, **own, **data, **offline, "PYTHONDONTWRITEBYTECODE": ""}

    def start(self, mode: str, folder: Path, *rest: object, **options: Any) -> subprocess.Popen[str]:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(HERE / "cases.py"), mode, str(folder), *map(str, rest)]
        return subprocess.Popen(command, env=self.environment, text=True, **options)


def cases(before: Side, after: Side, *, keep: bool) -> None:
    """Of both sides at the same time, each with what the first one wrote; with `keep` only of the second."""
    made = before.folder / "made"
    if not keep and before.start("make", made).wait():
        sys.exit("the first version could not write what both read")
    running = []
    for side in [after] if keep else [before, after]:
        work = side.folder / "work"
        shutil.copytree(made, work)
        with open(side.folder / "log.txt", "w") as log:
            running.append((side, side.start("all", work, side.folder / "cases.json", stderr=log, stdout=log)))
    for side, process in running:
        if process.wait():
            sys.exit(f"{side.name} failed: {side.folder / 'log.txt'}")


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """One entry per leaf: names are parts joined by ' / '."""
    if not isinstance(value, (dict, list)) or not value:
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        key: leaf
        for part, item in items
        for key, leaf in flatten(item, f"{name} / {part}" if name else str(part)).items()
    }


def intended() -> dict[str, str]:
    """Pattern of a name -> reason, from the table in intended.md."""
    rows = [
        line.strip("| ").split(" | ")
        for line in (HERE / "intended.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    return {pattern.strip("` "): reason for pattern, reason in rows}


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print the differences that nobody intended; their number."""
    patterns = intended()
    count, met = 0, dict.fromkeys(patterns, 0)
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "absent"), after.get(name, "absent")
        if old == new:
            continue
        names = (name, f"gone: {name}") if new == "absent" else (name,)
        if pattern := next((pattern for pattern in patterns if any(fnmatchcase(n, pattern) for n in names)), None):
            met[pattern] += 1
            continue
        count += 1
        print(f"{name}: {str(old)[:70]} -> {str(new)[:70]}")
    print(f"{len(before)} values before, {len(after)} after; {count} differ, and {sum(met.values())} as intended")
    return count


def times(sides: list[Side], rounds: int) -> None:
    """Medians of rounds in turn, and the median of their ratios."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    workers = [side.start("time", side.folder / "time", **pipes) for side in sides]
    names = next(iter([json.loads(worker.stdout.readline()) for worker in workers]))  # type: ignore[union-attr]

    def measured(index: int, name: str) -> float:
        worker = workers[index]
        assert worker.stdin is not None
        assert worker.stdout is not None
        print(name, file=worker.stdin, flush=True)
        return float(worker.stdout.readline())

    def started(index: int, name: str) -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "onebit", *name.split()]
        place = sides[index].folder / "time"
        subprocess.run(
            command,
            env=sides[index].environment,
            cwd=place,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - start

    digit = sides[0].folder / "made" / "digit.png"
    commands = ["--help", "train --help", *([f"predict mnist-mlp {digit}"] if digit.is_file() else [])]
    for name, way in [*((name, measured) for name in names), *((name, started) for name in commands)]:
        pairs = [tuple(way(index, name) for index in range(2)) for _ in range(rounds)]
        old, new = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(new / old for old, new in pairs)
        print(f"{name.replace(str(digit), 'DIGIT'):<28}{old * 1e3:9.2f} ms {new * 1e3:9.2f} ms   × {ratio:.3f}")
    for worker in workers:
        worker.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.golden", description=__doc__)
    parser.add_argument("tag", nargs="?", default="before-house")
    parser.add_argument("head", nargs="?", default=".")
    parser.add_argument("--time", action="store_true", help="measure instead, in pairs")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--again", action="store_true", help="compare the results of the last time")
    parser.add_argument("--keep", action="store_true", help="keep what the first version gave the last time")
    arguments = parser.parse_args()
    if not arguments.again:
        before = Side(arguments.tag, BUILD / "before", keep=arguments.keep)
        after = Side(arguments.head, BUILD / "after")
        if arguments.time:
            times([before, after], arguments.rounds)
            return 0
        cases(before, after, keep=arguments.keep)
    files = [BUILD / name / "cases.json" for name in ("before", "after")]
    return int(compare(*(flatten(json.loads(file.read_text())) for file in files)) > 0)


if __name__ == "__main__":
    sys.exit(main())
