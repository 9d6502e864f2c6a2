"""Image files to pixels, in worker processes.

The workers are programs of their own that talk through their standard input and output: a script that loads data needs
no `if __name__ == "__main__"`, and nothing is forked beside the threads of a training. Ctrl-C does not reach them; they
end when their input does.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onebit.common.pictures import opened, picture
from onebit.data.images import Images
from onebit.data.resizing import crop_box
from onebit.errors import DataError

_REPLY = struct.Struct("<?I")
"""Whether the image decoded, and how many bytes follow: its pixels, or what is wrong with it."""
_Idle: TypeAlias = "queue.SimpleQueue[subprocess.Popen[bytes]]"
_ORIENTATION = 0x0112  # of EXIF; 5 to 8 are turned by a quarter


def image_size(path: str) -> tuple[int, int]:
    """(height, width) of an image file as it is looked at, from its header.

    Raises:
        DataError: not an image that Pillow knows.
    """
    with opened(path) as image:
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def decode_image(path: str, size: tuple[int, int], *, crop: npt.ArrayLike | None = None) -> Images:
    """An image file as RGB pixels: the largest centred part of the shape of `size`, resized to it.

    For a square that is: the shorter side to `size`, then the centre cut out. Transparency is laid on black; grey,
    palette and CMYK images become RGB, 16 bits become 8; an EXIF orientation is obeyed.

    Args:
        path: the file.
        size: height and width.
        crop: take this part of the image instead, see `resizing.crop_box`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: it does not decode; the message names it.
    """
    from PIL import Image, ImageOps

    height, width = size
    with opened(path) as image:
        image.draft(image.mode, (2 * width, 2 * height))  # a large JPEG is decoded at a half, quarter or eighth
        seen = picture(image, "RGB")
        if crop is None:
            seen = ImageOps.fit(seen, (width, height), Image.Resampling.BILINEAR)
        else:
            box = crop_box(seen.width, seen.height, np.asarray(crop, np.float64))
            seen = seen.resize((width, height), Image.Resampling.BILINEAR, box)
        return np.array(seen)


def default_workers() -> int:
    """One a CPU that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Decoders:
    """Worker processes that decode images of one size.

    They are started when first needed, and again in a process that was forked meanwhile; a copy that was sent to
    another process starts its own. `close` ends them; so does the end of the program.

    Args:
        size: height and width of the decoded images.
        workers: processes; 0 decodes here; None for one a CPU.
    """

    def __init__(self, size: tuple[int, int], *, workers: int | None = None) -> None:
        self.size = size
        self.workers = default_workers() if workers is None else workers
        self._started: _Workers | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., Decoders], tuple[Any, ...]]:
        return _decoders, (self.size, self.workers)

    def decode(self, paths: Sequence[str], *, crops: npt.NDArray[np.float64] | None = None) -> Images:
        """The images, (len(paths), H, W, 3).

        Args:
            crops: (len(paths), 4), a part of each, see `decode_image`.

        Raises:
            DataError: the first of them that does not decode, or a worker that died.
        """
        pixels = np.empty((len(paths), *self.size, 3), np.uint8)
        for error in self.decode_into(pixels, paths, crops=crops):
            if error is not None:
                raise error
        return pixels

    def decode_into(
        self, pixels: Images, paths: Sequence[str], *, crops: npt.NDArray[np.float64] | None = None
    ) -> Iterator[DataError | None]:
        """Decode into `pixels`; yields in the order of `paths` what is wrong with each image, mostly None."""
        parts: Iterable[Any] = [None] * len(paths) if crops is None else crops
        if not self.workers:
            for job in zip(paths, pixels, parts, strict=True):
                yield self._decode_here(*job)
            return
        with self._lock:
            if self._started is None or self._started.process_id != os.getpid():
                self._started = _Workers(self.size, self.workers)
            workers = self._started
        results = [workers.submit(*job) for job in zip(paths, pixels, parts, strict=True)]
        try:
            for result in results:
                yield result.result()
        finally:
            for result in results:
                result.cancel()

    def _decode_here(self, path: str, out: Images, crop: Any) -> DataError | None:
        try:
            out[...] = decode_image(path, self.size, crop=crop)
        except DataError as error:
            return error
        return None

    def close(self) -> None:
        """End the workers; they start again when they are needed again."""
        if self._started is not None and self._started.process_id == os.getpid():
            self._started.close()
        self._started = None


def _decoders(size: tuple[int, int], workers: int) -> Decoders:
    return Decoders(size, workers=workers)


class _Workers:
    """Running worker processes, and a thread for each that hands it images one by one."""

    def __init__(self, size: tuple[int, int], count: int) -> None:
        self.process_id = os.getpid()
        self._threads = ThreadPoolExecutor(count, "onebit decoding")
        self._idle: _Idle = queue.SimpleQueue()
        processes = [_start(size) for _ in range(count)]
        for process in processes:
            self._idle.put(process)
        self.close = weakref.finalize(self, _end, self.process_id, self._threads, processes)

    def submit(self, path: str, out: Images, crop: Any) -> Future[DataError | None]:
        # not a method: a thread that held this object could be the one to end it, and would wait for itself
        return self._threads.submit(_decode, self._idle, path, out, crop)


def _start(size: tuple[int, int]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry for entry in sys.path if entry)  # also what this process added to its own path
    return subprocess.Popen(
        [sys.executable, "-c", "from onebit.data.decoding import work; work()", *map(str, size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libraries under Pillow write warnings there
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for this process; it then ends its workers
    )


def _end(process_id: int, threads: ThreadPoolExecutor, processes: list[subprocess.Popen[bytes]]) -> None:
    if process_id != os.getpid():
        return  # a fork: threads and children are those of the process that was forked
    threads.shutdown(wait=True, cancel_futures=True)
    for process in processes:
        process.communicate()  # closes its input, upon which it ends


def _decode(idle: _Idle, path: str, out: Images, crop: Any) -> DataError | None:
    """`_ask` a worker that has nothing to do."""
    process = idle.get()
    try:
        return _ask(process, path, out, crop)
    finally:
        idle.put(process)


def _ask(process: subprocess.Popen[bytes], path: str, out: Images, crop: Any) -> DataError | None:
    """Have a worker decode one image into `out`, (H, W, 3).

    Returns:
        What is wrong with the image, mostly None.

    Raises:
        DataError: the worker died.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        request = json.dumps([path, None if crop is None else [float(value) for value in crop]])
        process.stdin.write(request.encode("ascii") + b"\n")
        process.stdin.flush()
        decoded, length = _REPLY.unpack(_read(process.stdout, _REPLY.size))
        if not decoded:
            return DataError(_read(process.stdout, length).decode())
        if process.stdout.readinto(out.reshape(-1).data) != length:  # type: ignore[attr-defined]
            raise EOFError
        return None
    except (OSError, EOFError):
        raise DataError(
            f"{path}: the worker process that decoded it ended with status {process.wait()}; "
            "see what happens without workers: --workers 0"
        ) from None


def _read(stream: Any, count: int) -> bytes:
    content = stream.read(count)
    if len(content) != count:
        raise EOFError
    return content


def work() -> None:
    """What a worker does until its input ends."""
    size = int(sys.argv[1]), int(sys.argv[2])
    try:
        for line in sys.stdin.buffer:
            path, crop = json.loads(line)
            try:
                content, decoded = decode_image(path, size, crop=crop).tobytes(), True
            except DataError as error:
                content, decoded = str(error).encode("utf-8", "backslashreplace"), False
            sys.stdout.buffer.write(_REPLY.pack(decoded, len(content)) + content)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(1)  # who asked is gone; flushing at exit would complain
