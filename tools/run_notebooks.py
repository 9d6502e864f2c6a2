"""Run the notebooks from top to bottom and store their outputs: python tools/run_notebooks.py"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image


def run(path: Path) -> None:
    """Execute a notebook in its own folder. Execution times and versions, which always change, are not stored."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True, resources=resources).execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = fewer_colors(output.data["image/png"])
    nbformat.write(notebook, path)
    print(path)


def fewer_colors(picture: str) -> str:
    """A PNG in base64 with 64 colors: a third of the bytes."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb")):
        run(path)
