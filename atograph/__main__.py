"""``python -m atograph``."""

import os
import sys

if sys.path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - not one import more
    # As for the command: what lies in the working directory is data.
    del sys.path[0]

from atograph.cli.app import main

if __name__ == "__main__":
    main()
