"""Augmented images per second: `onebit bench augmentation`."""

from __future__ import annotations

import sys

from onebit.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", "augmentation", *sys.argv[1:]]))
