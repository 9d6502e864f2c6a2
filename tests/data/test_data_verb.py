"""`onebit data`: checks a folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onebit.__main__ import main
from support.image_folders import break_image, imagenet_folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["data", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_a_folder_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = imagenet_folder(tmp_path / "pictures")
    options = ("folder", "--data", root, "--input-size", 16, "--workers", 0)
    status, out, _ = run(capsys, *options, "--json")
    assert status == 0
    answered = json.loads(out)
    assert answered["dir"] == str(root)
    assert answered["note"] == "tested on the images of val/"
    assert all(Path(file).is_file() for file in answered["files"])
    status, out, _ = run(capsys, *options)
    assert out.splitlines()[0] == f"folder: complete in {root}"
    assert out.splitlines()[-1] == "tested on the images of val/"


def test_broken_images_are_refused_or_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = imagenet_folder(tmp_path / "pictures")
    broken = break_image(root / "train" / "n02" / "n02_3.JPEG")
    options = ("folder", "--data", root, "-j", 0, "--input-size", 16)
    status, out, err = run(capsys, *options)
    assert (status, out) == (2, "")
    assert str(broken) in err.splitlines()[-1]
    status, out, _ = run(capsys, *options, "--skip-broken")
    assert status == 0
    assert "n02_3.JPEG" in out
