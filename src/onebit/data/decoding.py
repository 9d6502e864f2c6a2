"""Image files to pixels, in worker processes.

Each worker is a program of its own, and a thread hands it one image after another. The process pools of Python do not
fit here: they either fork beside the threads of a training, or need `if __name__ == "__main__"` in every script that
loads data. Ctrl-C does not reach the workers; they end when their input does.
"""

from __future__ import annotations

import functools
import os
import pickle
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onebit.common.pictures import fitted, opened, upright_size
from onebit.data.resizing import crop_box
from onebit.data.streaming import Images
from onebit.errors import DataError

_Idle: TypeAlias = queue.SimpleQueue[subprocess.Popen[bytes]]


def image_size(path: str) -> tuple[int, int]:
    """(height, width) of an image file as a viewer shows it, from its header; DataError if Pillow cannot read it."""
    with opened(path) as image:
        width, height = upright_size(image)
        return height, width


def decode_image(path: str, size: tuple[int, int], *, crop: npt.ArrayLike | None = None) -> Images:
    """Decode an image file to RGB pixels: its largest centered part with the aspect ratio of `size`, resized to `size`.

    Transparent pixels are blended with black; gray, palette and CMYK images become RGB; 16 bits become 8; the EXIF
    orientation is applied.

    Args:
        size: height and width.
        crop: the part to take instead of the center, see `resizing.crop_box`.

    Returns:
        (H, W, 3) uint8.
    """
    box = None if crop is None else lambda width, height: crop_box(width, height, np.asarray(crop, np.float64))
    with opened(path) as image:
        return np.array(fitted(image, size, "RGB", box=box))


def default_workers() -> int:
    """One for each CPU that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Decoders:
    """Worker processes that decode images to one size.

    They start when they are first needed, and again in a forked process; a pickled copy starts its own. `close` ends
    them, and so does the end of the program.

    Args:
        size: height and width of the decoded images.
        workers: number of processes; 0 decodes in this one; None means one for each CPU.
    """

    def __init__(self, size: tuple[int, int], *, workers: int | None = None) -> None:
        self.size = size
        self.workers = default_workers() if workers is None else workers
        self._lock = threading.Lock()
        self._process_id: int | None = None  # of the process that started the workers

    def __reduce__(self) -> tuple[Callable[[], Decoders], tuple[()]]:
        return functools.partial(Decoders, self.size, workers=self.workers), ()

    def decode(self, paths: Sequence[str], *, crops: npt.NDArray[np.float64] | None = None) -> Images:
        """Decode images, (len(paths), H, W, 3).

        Args:
            crops: (len(paths), 4), the part to take of each image, see `decode_image`.
        """
        pixels = np.empty((len(paths), *self.size, 3), np.uint8)
        for error in self.decode_into(pixels, paths, crops=crops):
            if error is not None:
                raise error
        return pixels

    def decode_into(
        self, pixels: Images, paths: Sequence[str], *, crops: npt.NDArray[np.float64] | None = None
    ) -> Iterator[DataError | None]:
        """Decode into `pixels`; for each image, in the order of `paths`, yields its error or None."""
        parts: Iterable[Any] = [None] * len(paths) if crops is None else crops.tolist()
        jobs = zip(paths, parts, pixels, strict=True)
        if not self.workers:
            for path, crop, out in jobs:
                yield _store(_decoded(path, self.size, crop), out)
            return
        threads, idle = self._start()
        results = [threads.submit(_decode_in_worker, idle, *job) for job in jobs]
        try:
            for result in results:
                yield result.result()
        finally:
            for result in results:
                result.cancel()

    def _start(self) -> tuple[ThreadPoolExecutor, _Idle]:
        """Start the workers, unless this process has done so."""
        with self._lock:
            if self._process_id != os.getpid():
                self._threads, self._idle = ThreadPoolExecutor(self.workers, "onebit decoding"), _Idle()
                processes = [_start_worker(self.size) for _ in range(self.workers)]
                for process in processes:
                    self._idle.put(process)
                self._end = weakref.finalize(self, _end, os.getpid(), self._threads, processes)
                self._process_id = os.getpid()
            return self._threads, self._idle

    def close(self) -> None:
        """End the workers; they start again when they are needed again."""
        if self._process_id == os.getpid():
            self._end()
        self._process_id = None


def _decoded(path: str, size: tuple[int, int], crop: Any) -> Images | DataError:
    try:
        return decode_image(path, size, crop=crop)
    except DataError as error:
        return error


def _store(decoded: Images | DataError, out: Images) -> DataError | None:
    if isinstance(decoded, DataError):
        return decoded
    out[...] = decoded
    return None


def _start_worker(size: tuple[int, int]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry for entry in sys.path if entry)  # also what this process added to its own path
    return subprocess.Popen(
        [sys.executable, "-c", "from onebit.data.decoding import work; work()", *map(str, size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libraries under Pillow write warnings there
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for this process, which then ends its workers
    )


def _end(process_id: int, threads: ThreadPoolExecutor, processes: list[subprocess.Popen[bytes]]) -> None:
    if process_id != os.getpid():
        return  # this is a fork: threads and workers belong to the original process
    threads.shutdown(wait=True, cancel_futures=True)
    for process in processes:
        process.communicate()  # closes its input, which ends it


# not a method: a thread that held the last reference to `Decoders` would end it, and wait for itself
def _decode_in_worker(idle: _Idle, path: str, crop: Any, out: Images) -> DataError | None:
    """Decode an image into `out`, (H, W, 3), in an idle worker; returns its error or None."""
    process = idle.get()
    try:
        # both ends of the pipe are ours: requests and decoded pixels are pickled, never the content of a file
        pickle.dump((path, crop), process.stdin)  # type: ignore[arg-type]
        process.stdin.flush()  # type: ignore[union-attr]
        return _store(pickle.load(process.stdout), out)  # type: ignore[arg-type]
    except (OSError, EOFError, pickle.UnpicklingError):
        raise DataError(
            f"{path}: the worker process that decoded it ended with status {process.wait()}; "
            "see what happens without workers: --workers 0"
        ) from None
    finally:
        idle.put(process)


def work() -> None:
    """Decode in a worker until its input ends."""
    size = int(sys.argv[1]), int(sys.argv[2])
    try:
        while True:
            path, crop = pickle.load(sys.stdin.buffer)  # what the parent process wrote, as in `_decode_in_worker`
            pickle.dump(_decoded(path, size, crop), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
            sys.stdout.buffer.flush()
    except EOFError:
        pass
    except BrokenPipeError:
        os._exit(1)  # the parent process is gone; flushing at exit would fail
