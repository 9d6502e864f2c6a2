"""Single products with one-bit weights against float32 and 8 bits: `onebit bench kernels`."""

from __future__ import annotations

import sys

from onebit.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", "kernels", *sys.argv[1:]]))
