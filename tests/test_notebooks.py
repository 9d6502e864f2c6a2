"""The committed notebooks hold their outputs, and run with the interpreter of the tests and with small settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ipykernel.kernelspec import get_kernel_dict
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOK = FOLDER / "01-binaryconnect.ipynb"
SMALL = {"DATASET": '"mnist-sample"', "WIDTH": "32", "EPOCHS": "1"}
KERNEL = "running-interpreter"


def tagged(notebook: Any, tag: str) -> Any:
    [cell] = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return cell


def with_settings(source: str, settings: dict[str, str]) -> str:
    """The parameter cell with other values; every setting must be there."""
    for name, value in settings.items():
        source, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}", source, flags=re.MULTILINE)
        assert count == 1, f"the parameter cell sets {name} {count} times"
    return source


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a kernel that is this interpreter, whatever kernels this user or machine has installed."""
    spec = tmp_path / "jupyter" / "kernels" / KERNEL
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps(get_kernel_dict()))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return KERNEL


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.nightly
def test_the_notebook_runs(tmp_path: Path, kernel: str) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = tagged(notebook, "parameters")
    cell.source = with_settings(cell.source, SMALL)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name=kernel, resources=resources).execute()
    text = "".join(output.get("text", "") for output in outputs(notebook))
    assert "epoch 1/1" in text
    assert re.search(r"of 2,000; ensemble:8 weights, BatchNorm re-estimated", text)
    assert re.search(r"certified on 2,000 mnist-sample test images: .* 0 labels differ from torch", text)
    [correct] = re.findall(r"(\d+) of 2000 correct; torch loaded: False", text)
    assert 1200 < int(correct) <= 2000
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == 5


@pytest.mark.nightly
@pytest.mark.parametrize("other", [{}, {"METHOD": '"bnn"', "MODES": '("binary", "latent")'}], ids=["as it is", "bnn"])
def test_the_trainer_runs_in_a_notebook(other: dict[str, str], tmp_path: Path, kernel: str) -> None:
    notebook = nbformat.read(FOLDER / "02-trainer.ipynb", as_version=4)
    cell = tagged(notebook, "parameters")
    cell.source = with_settings(cell.source, {"WIDTH": "32", "EPOCHS": "2", **other})
    NotebookClient(notebook, timeout=120, kernel_name=kernel, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = "".join(output.get("text", "") for output in outputs(notebook))
    assert "epoch 2/2" in text
    scores = re.findall(r"of 2,000; .* weights.*; entropy [\d.]+ nats, calibration error [\d.]+ %", text)
    assert len(scores) == (2 if other else 3)
    shown = [output.get("data", {}) for output in outputs(notebook)]
    assert sum("image/png" in data for data in shown) == 1
    assert re.search(r"certified on 2,000 mnist-sample test images: .* 0 labels differ from torch", text)


NOTEBOOKS = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.name)
SHOWS = re.compile(r"\bprint\b|^Image\(|^plt\.show\(|\.plot\(\)$", re.MULTILINE)
"""What a cell that shows something contains."""


@NOTEBOOKS
def test_notebooks_are_committed_with_the_outputs_of_one_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    for cell in cells:
        assert len(cell.source.splitlines()) <= 16
        assert cell.outputs or not SHOWS.search(cell.source), cell.source
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in cell.outputs)


@NOTEBOOKS
def test_outputs_are_small_and_have_no_absolute_paths_or_warnings(path: Path) -> None:
    assert path.stat().st_size < 200_000
    for output in outputs(nbformat.read(path, as_version=4)):
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert not re.search(r"/(home|root|tmp|work|usr|Users)\b|[A-Z]:\\|Warning", text), text
