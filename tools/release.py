"""Build what a release uploads, check it, and say what is left to do by hand: `make release`.

The sdist is built from the last commit, the wheel from the sdist. Both must have all tracked files and no others. The
wheel is installed into a fresh environment and used there without torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import onebit

ROOT = Path(__file__).parents[1]
OUT, DIST = ROOT / "build" / "release", ROOT / "dist"
NAME = f"onebit-{onebit.__version__}"
LICENSES = ("LICENSE", "src/onebit/data/MNIST_SAMPLE_LICENSE.md")
INFO = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", *(f"licenses/{name}" for name in LICENSES))
DIGITS = """
import sys, onebit
data = onebit.load_dataset("mnist-sample").test
right = (onebit.run(onebit.load("mnist-mlp"), data.images).argmax(axis=1) == data.labels).mean()
assert onebit.__file__.startswith(sys.prefix) and "torch" not in sys.modules and right > 0.95, right
"""
BY_HAND = f"""
Left to do by hand:
- CHANGELOG.md and CITATION.cff: the date of {NAME}; commit, and `make release` again.
- git tag v{onebit.__version__} && git push origin v{onebit.__version__}
- The wheel in dist is for machines like this one. `cibuildwheel` builds those for all platforms (pyproject.toml has its
  settings), one run each on Linux, macOS and Windows; it runs tools/wheel_check.py in each.
- twine upload {NAME}.tar.gz and the wheels of cibuildwheel."""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """The output of a program; a failure ends the release with what it printed."""
    print(f"$ {' '.join(map(str, words))}", flush=True)
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout.strip()


def environment(name: str, *packages: str | Path) -> Path:
    """The programs of a fresh environment with these packages."""
    run(sys.executable, "-m", "venv", OUT / name)
    run(OUT / name / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", "constraints.txt", *packages)
    return OUT / name / "bin"


def wrong_contents(sdist: Path, wheel: Path) -> list[str]:
    """Files that are in the archives and should not be, or should and are not."""
    tracked = {name for name in run("git", "ls-files").splitlines() if not name.startswith(".ci/")}
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    with zipfile.ZipFile(wheel) as zipped:
        in_wheel = {name for name in zipped.namelist() if not name.startswith("onebit/native/kernels.")}
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/") and "/csrc/" not in name}
    package |= {f"{NAME}.dist-info/{name}" for name in INFO}
    wrong = {f"sdist: {name}" for name in in_sdist ^ (tracked | {"PKG-INFO"})}
    return sorted(wrong | {f"wheel: {name}" for name in in_wheel ^ package})


def main() -> None:
    if changed := run("git", "status", "--porcelain"):
        sys.exit(f"a release is of a commit, but these files differ from it:\n{changed}")
    shutil.rmtree(OUT, ignore_errors=True)
    os.environ.pop("PYTHONPATH", None)
    os.environ["SOURCE_DATE_EPOCH"] = run("git", "log", "-1", "--format=%ct")
    tools = environment("tools", "build", "twine")
    run(tools / "python", "-m", "build", "--outdir", OUT)  # compiles the kernels: minutes
    [sdist], [wheel] = OUT.glob("*.tar.gz"), OUT.glob("*.whl")
    if wrong := wrong_contents(sdist, wheel):
        sys.exit("\n".join(wrong))
    run(tools / "twine", "check", "--strict", sdist, wheel)
    python = environment("use", wheel) / "python"
    run(python, "-c", DIGITS, cwd=OUT)
    print(run(python, ROOT / "tools" / "wheel_check.py", cwd=OUT))
    DIST.mkdir(exist_ok=True)
    for file in (sdist, wheel):
        print(shutil.copy(file, DIST))
    print(BY_HAND)


if __name__ == "__main__":
    main()
