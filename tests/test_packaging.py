"""What an installed onebit must not lose; the editable installation of the tests cannot show it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import onebit
from onebit.nets import net_names
from onebit.packed import save
from onebit.runtime import run
from support.packed_nets import IMAGE_NETS

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_what_is_left_out_is_named_from_the_root() -> None:
    """The patterns are those of .gitignore: a bare `docs` would leave out a package of that name too."""
    found = re.search(r"^sdist\.exclude = \[(.*)\]$", PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    patterns = re.findall(r'"([^"]*)"', found[1])
    assert patterns == ["/.ci"]  # the tests read docs, notebooks and benchmarks
    assert all(pattern.startswith("/") for pattern in patterns)


def test_running_a_packed_net_needs_four_packages() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    base, train = (
        re.findall(r'"([\w-]+)', found[1])
        for found in (re.search(rf"^{key} = \[(.*?)\]$", text, re.M | re.S) for key in ("dependencies", "train"))
        if found is not None
    )
    assert base == ["numpy", "safetensors", "pillow", "threadpoolctl"]
    assert {"torch", "pyyaml"} <= set(train)


def test_every_package_and_data_file_lies_in_src() -> None:
    package = PYPROJECT.parent / "src" / "onebit"
    names = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {"py.typed", "__init__.pyi", "recipes/methods.yaml", "data/MNIST_SAMPLE_LICENSE.md"} <= names
    assert {"export/html/run_page.js", "export/html/engine/net.js", "export/html/page/page.html"} <= names
    assert {f"nets/{name}.1bit" for name in net_names()} <= names
    # what `onebit export --to c` copies; folders named csrc are not in the wheel
    assert {"native/plain/numbers.h", "native/plain/tables.h", "export/c/kernels.h", "export/c/memory.h"} <= names
    assert {f"export/c/templates/{name}" for name in ("main.c", "Makefile", "run.ino")} <= names


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("CITATION.cff", {"cff-version", "message", "title", "authors", "version", "license"}),
        (".pre-commit-config.yaml", {"repos"}),
        (".github/ISSUE_TEMPLATE/bug.yml", {"name", "description", "body"}),
        (".github/ISSUE_TEMPLATE/feature.yml", {"name", "description", "body"}),
        (".github/ISSUE_TEMPLATE/config.yml", {"blank_issues_enabled"}),
        (".github/workflows/ci.yml", {"name", True, "jobs", "permissions"}),  # YAML reads `on` as true
    ],
)
def test_files_for_the_code_host_have_their_keys(name: str, keys: set[Any]) -> None:
    content = yaml.safe_load((PYPROJECT.parent / name).read_text(encoding="utf-8"))
    assert keys <= content.keys()
    assert content.get("version", onebit.__version__) == onebit.__version__
    assert all({"type", "id", "attributes"} <= part.keys() for part in content.get("body", []))
    assert all({"runs-on", "steps"} <= job.keys() for job in content.get("jobs", {}).values())


@pytest.mark.nightly
def test_a_wheel_installs_and_predicts_without_torch(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(PYPROJECT.parent)], check=True)
    (wheel,) = tmp_path.glob("onebit-*-py3-none-*.whl")
    place = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place), str(wheel)], check=True)
    assert [path.name for path in (place / "onebit" / "native").glob("*.[ch]")] == []
    assert sorted(path.stem for path in (place / "onebit" / "nets").glob("*.1bit")) == net_names() != []
    net = IMAGE_NETS["sign"](0)
    save(net, tmp_path / "net.1bit")
    _, height, width = net.input.shape
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    # without site, so that the editable installation of the tests is not found
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import onebit; from onebit.__main__ import main\n"
        "from onebit.native import instruction_sets\n"
        "assert onebit.__file__.startswith(sys.argv[1]) and instruction_sets()\n"
        "status = main(['predict', *sys.argv[3:], '--json']); assert 'torch' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-S", "-c", code, str(place), sysconfig.get_path("purelib")]
    done = subprocess.run(
        [*command, str(tmp_path / "net.1bit"), str(tmp_path / "image.png")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = run(net, pixels.transpose(2, 0, 1)[np.newaxis])[0]
    assert json.loads(done.stdout)["predictions"][0]["label"] == expected.argmax()
    code = "import runpy, sys; sys.path[:0] = sys.argv[1:3]; runpy.run_path(sys.argv[3], run_name='__main__')"
    written = "import onebit.export; onebit.export.export_net(onebit.load(sys.argv[3]), 'c', sys.argv[4])"
    export = [*command[:3], f"import sys; sys.path[:0] = sys.argv[1:3]; import onebit; {written}", *command[4:]]
    subprocess.run([*export, str(tmp_path / "net.1bit"), str(tmp_path / "c")], check=True)
    assert (tmp_path / "c" / "net.c").is_file()
    check = [*command[:3], code, *command[4:], str(PYPROJECT.parent / "tools" / "wheel_check.py")]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "give the bits of numpy" in done.stdout
