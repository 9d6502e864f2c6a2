"""`python -m benchmarks web` measures the page of each net."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import which

import pytest
from packed_nets import make_packed_mlp

from benchmarks.__main__ import main
from onebit.nets import shipped_path
from onebit.packed import save


@pytest.mark.skipif(which("node") is None, reason="node is not installed")
def test_every_net_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for form in ("sign", "weight-only"):
        files.append(tmp_path / f"{form}.1bit")
        save(make_packed_mlp(form=form), files[-1])
    assert main(["web", *map(str, files), "--rounds", "1", "--samples", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["net"] for row in rows] == ["sign.1bit", "weight-only.1bit"]
    for row, file in zip(rows, files, strict=True):
        assert 0 < row["node_fastest_ms"] <= row["node_ms"]
        assert row["page_bytes"] > row["file_bytes"] == file.stat().st_size
    assert main(["web", "mnist-mlp", "--rounds", "1", "--samples", "2"]) == 0
    printed = capsys.readouterr().out
    assert "mnist-mlp" in printed
    assert f"{shipped_path('mnist-mlp').stat().st_size:,} B" in printed


def test_no_rounds_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", "net.1bit", "--rounds", "0"]) == 2
    assert "must be 1 or more" in capsys.readouterr().err
