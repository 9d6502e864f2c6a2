"""Run the notebooks from top to bottom and store their outputs: python tools/run_notebooks.py [NOTEBOOK ...]"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path) -> None:
    """Execute one notebook in its own folder. Execution times and versions, which always change, are not stored."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True, resources=resources)
    client.execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = fewer_colors(output.data["image/png"])
    nbformat.write(notebook, path)
    print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")


def fewer_colors(picture: Any) -> str:
    """A PNG in base64 with 64 colors: a third of the bytes."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        run(path)
