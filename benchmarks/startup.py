"""Seconds of whole processes, from start to end: `onebit bench startup`."""

from __future__ import annotations

import sys

from onebit.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", "startup", *sys.argv[1:]]))
