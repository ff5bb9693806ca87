"""``python -m benchmarks.programs``."""

import sys

from benchmarks.programs.command import main

if __name__ == "__main__":
    sys.exit(main())
