"""Seconds to a test accuracy on MNIST with binary weights: `onebit bench mnist-time`."""

from __future__ import annotations

import sys

from onebit.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", "mnist-time", *sys.argv[1:]]))
