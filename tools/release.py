"""Check what `make release` built of the last commit, copy it to dist, and say what is left to do by hand.

Sdist and wheel must have all tracked files and no others.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import onebit

ROOT = Path(__file__).parents[1]
OUT, DIST = ROOT / "build" / "release", ROOT / "dist"
NAME = f"onebit-{onebit.__version__}"
LICENSES = ("LICENSE", "src/onebit/data/MNIST_SAMPLE_LICENSE.md")
INFO = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", *(f"licenses/{name}" for name in LICENSES))
BY_HAND = f"""
Left to do by hand:
- CHANGELOG.md and CITATION.cff: the date of {NAME}; commit, and `make release` again.
- git tag v{onebit.__version__} && git push origin v{onebit.__version__}
- The wheel in dist is for machines like this one. `cibuildwheel` builds those for all platforms (pyproject.toml has its
  settings), one run each on Linux, macOS and Windows; it runs tools/wheel_check.py in each.
- twine upload {NAME}.tar.gz and the wheels of cibuildwheel."""


def wrong_contents(listed: Iterable[str], sdist: Path, wheel: Path) -> list[str]:
    """Files that are in the archives and should not be, or should, as `git ls-files` lists them, and are not."""
    tracked = {name for name in listed if not name.startswith(".ci/")}
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    with zipfile.ZipFile(wheel) as zipped:
        in_wheel = {name for name in zipped.namelist() if not name.startswith("onebit/native/kernels.")}
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/") and "/csrc/" not in name}
    package |= {f"{NAME}.dist-info/{name}" for name in INFO}
    wrong = {f"sdist: {name}" for name in in_sdist ^ (tracked | {"PKG-INFO"})}
    return sorted(wrong | {f"wheel: {name}" for name in in_wheel ^ package})


def main() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    [sdist], [wheel] = OUT.glob("*.tar.gz"), OUT.glob("*.whl")
    if wrong := wrong_contents(listed.splitlines(), sdist, wheel):
        sys.exit("\n".join(wrong))
    DIST.mkdir(exist_ok=True)
    for file in (sdist, wheel):
        print(shutil.copy(file, DIST))
    print(BY_HAND)


if __name__ == "__main__":
    main()
