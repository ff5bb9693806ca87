"""``python -m benchmarks.language``."""

import sys

from benchmarks.language.command import main

if __name__ == "__main__":
    sys.exit(main())
