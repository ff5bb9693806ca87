"""``python -m benchmarks.depth``."""

import sys

from benchmarks.depth.command import main

if __name__ == "__main__":
    sys.exit(main())
