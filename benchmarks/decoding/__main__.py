"""``python -m benchmarks.decoding``."""

import sys

from benchmarks.decoding.command import main

if __name__ == "__main__":
    sys.exit(main())
