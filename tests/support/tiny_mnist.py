"""Small files like MNIST's, a local web server, and the real MNIST and Fashion-MNIST if they are available."""

from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from onebit.data.fetch import data_folders
from onebit.data.mnist import MNIST_FILES, IdxFile


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The header of an IDX file of unsigned bytes: 0x08 is their type, then the rank, then each size, big-endian."""
    return struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)


TINY_SHAPES = ((40, 28, 28), (40,), (20, 28, 28), (20,))


def _find_real(name: str) -> Path | None:
    folders = (folder for folder in data_folders(None, [name]) if folder.name == name)
    return next((f.resolve() for f in folders if all((f / file.names[0]).is_file() for file in MNIST_FILES)), None)


# looked up before the tests close off the environment
REAL = {name: _find_real(name) for name in ("mnist", "fashion-mnist")}
needs_real = {
    name: pytest.mark.skipif(folder is None, reason=f"the real {name} is in no folder of ONEBIT_DATA")
    for name, folder in REAL.items()
}


class TinyMnist:
    """Four generated IDX files in the shape of MNIST's, with their true checksums."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.arrays = [
            (np.arange(shape[0]) % 10 if len(shape) == 1 else rng.integers(0, 256, shape)).astype(np.uint8)
            for shape in TINY_SHAPES
        ]
        self.contents = [idx_header(array.shape) + array.tobytes() for array in self.arrays]
        self.packed = [gzip.compress(content, mtime=0) for content in self.contents]
        self.files = tuple(
            IdxFile(official.name, shape, hashlib.sha256(content).hexdigest(), hashlib.sha256(packed).hexdigest())
            for official, shape, content, packed in zip(
                MNIST_FILES, TINY_SHAPES, self.contents, self.packed, strict=True
            )
        )

    def write(self, folder: Path, *, which: tuple[int, ...] = (0, 1, 2, 3)) -> Path:
        """Write the packed files (or some of them) under their official names."""
        folder.mkdir(parents=True, exist_ok=True)
        for index in which:
            (folder / f"{self.files[index].name}.gz").write_bytes(self.packed[index])
        return folder


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()


class Mirror:
    """A running web server with its address and the requested paths."""

    def __init__(self, folder: Path) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.requests: list[str] = []
        self.server.requests = self.requests  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
