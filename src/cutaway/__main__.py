"""`python -m cutaway` is the `cutaway` command."""

import sys

from cutaway.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
