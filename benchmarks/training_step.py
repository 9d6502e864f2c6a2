"""Milliseconds of a training step against plain torch: `onebit bench training-step`."""

from __future__ import annotations

import sys

from onebit.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", "training-step", *sys.argv[1:]]))
