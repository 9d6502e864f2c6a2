"""Build what a release uploads, check it, and say what is left to do by hand: `make release`.

The sdist is built from the last commit, the wheel from the sdist, both twice in folders of their own: their bytes must
be the same. The wheel is installed into a fresh environment and used there, first without torch, then with that of the
environment that runs this.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import onebit

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "release"
DIST = ROOT / "dist"
NAME = f"onebit-{onebit.__version__}"
LEFT_OUT = (".ci/",)
"""Tracked folders that are not in the sdist."""
USE = """
import sys, onebit
from PIL import Image
assert onebit.__file__.startswith(sys.prefix) and "torch" not in sys.modules
data = onebit.load_dataset("mnist-sample").test
Image.fromarray(data.images[0, 0]).save("digit.png")
right = (onebit.run(onebit.load("mnist-mlp"), data.images).argmax(axis=1) == data.labels).sum()
print(f"{right:,} of {len(data):,} digits right")
assert right > 0.95 * len(data)
"""
BY_HAND = f"""
Left to do by hand:
- CHANGELOG.md and CITATION.cff: the date of {NAME}; commit, and `make release` again.
- git tag v{onebit.__version__} && git push origin v{onebit.__version__}
- The wheel above is for machines like this one. `cibuildwheel` builds those for all platforms (pyproject.toml has its
  settings), one run each on Linux, macOS and Windows; it runs tools/wheel_check.py in each.
- twine upload {NAME}.tar.gz and the wheels of cibuildwheel."""


def run(*words: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """The output of a program; a failure ends the release with what it printed."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env=clean | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}")
    return done.stdout.strip()


def environment(name: str, *packages: str | Path) -> Path:
    """The programs of a fresh environment with these packages."""
    venv.create(OUT / name, clear=True, with_pip=True)
    programs = OUT / name / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", "-c", "constraints.txt", *packages)
    return programs


def build(programs: Path, folder: Path) -> tuple[Path, Path]:
    """Build sdist and wheel."""
    run(
        programs / "python",
        "-m",
        "build",
        "--outdir",
        folder,
        SOURCE_DATE_EPOCH=run("git", "log", "-1", "--format=%ct"),
    )
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def wrong_contents(sdist: Path, wheel: Path) -> list[str]:
    """Files that are in the archives and should not be, or should and are not."""
    tracked = {name for name in run("git", "ls-files").splitlines() if not name.startswith(LEFT_OUT)}
    with tarfile.open(sdist) as archive:
        found = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    wrong = {f"sdist: {name}" for name in found ^ (tracked | {"PKG-INFO"})}
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/") and "/csrc/" not in name}
    info = f"{NAME}.dist-info"
    licences = {f"{info}/licenses/{name}" for name in ("LICENSE", "src/onebit/data/MNIST_SAMPLE_LICENSE.md")}
    texts = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    with zipfile.ZipFile(wheel) as zipped:
        found = {name for name in zipped.namelist() if not name.startswith("onebit/native/kernels.")}
    return sorted(wrong | {f"wheel: {name}" for name in found ^ (package | licences | texts)})


def main() -> None:
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {text}", flush=True)

    if changed := run("git", "status", "--porcelain"):
        sys.exit(f"a release is of a commit, but these files differ from it:\n{changed}")
    shutil.rmtree(OUT, ignore_errors=True)
    say("building twice, which compiles the kernels twice: minutes")
    tools = environment("tools", "build", "twine")
    (sdist, wheel), again = build(tools, OUT / "first"), build(tools, OUT / "second")
    for one, other in zip((sdist, wheel), again, strict=True):
        if one.read_bytes() != other.read_bytes():
            sys.exit(f"built twice, {one} and {other} differ")
        say(f"{one.name}: {one.stat().st_size:,} bytes, the same twice")
    if wrong := wrong_contents(sdist, wheel):
        sys.exit("\n".join(wrong))
    run(tools / "twine", "check", "--strict", sdist, wheel)
    say("their files are the tracked ones, and twine has nothing to say")
    programs, use = environment("use", wheel), OUT / "use"
    python = programs / "python"
    say(f"{run(programs / 'onebit', '--version', cwd=use)} without torch: {run(python, '-c', USE, cwd=use)}")
    for words in (
        (programs / "onebit", "predict", "mnist-mlp", "digit.png"),
        (python, ROOT / "tools" / "wheel_check.py"),
    ):
        say(run(*words, cwd=use).splitlines()[-1])
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    Path(site, "torch.pth").write_text(f"{Path(torch.origin).parents[1]}\n", encoding="utf-8")
    run(programs / "onebit", "train", "digits-smoke", "--out", "run", cwd=use)
    run(programs / "onebit", "pack", "run", "-o", "net.1bit", cwd=use)
    checked = run(programs / "onebit", "verify", "net.1bit", "--source", "run", cwd=use)
    say(f"with torch: a net trained, packed and verified: {checked.splitlines()[-1]}")
    DIST.mkdir(exist_ok=True)
    for file in (sdist, wheel):
        shutil.copy(file, DIST)
    say(f"both lie in {DIST.name}/")
    print(BY_HAND)


if __name__ == "__main__":
    main()
