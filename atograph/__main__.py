"""``python -m atograph``."""

from atograph.cli import main

if __name__ == "__main__":
    main()
