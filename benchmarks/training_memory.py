"""Peak memory of a training step against plain torch: `onebit bench training-memory`."""

from __future__ import annotations

import sys

from onebit.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", "training-memory", *sys.argv[1:]]))
