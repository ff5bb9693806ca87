"""``python -m benchmarks.onnx_files``."""

import sys

from benchmarks.onnx_files.command import main

if __name__ == "__main__":
    sys.exit(main())
