"""Microseconds of packed nets against plain torch: `onebit bench nets`."""

from __future__ import annotations

import sys

from onebit.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", "nets", *sys.argv[1:]]))
