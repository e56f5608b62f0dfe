"""`python -m cutaway` is the `cutaway` command."""

import os
import sys
from contextlib import suppress

from cutaway.cli.main import main
from cutaway.runtime import this_rank

__all__: list[str] = []

if __name__ == "__main__":
    code = main()
    if this_rank().n_ranks > 1:  # threads of torch.distributed outlive a job; under them Python's own end aborts now and then
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
