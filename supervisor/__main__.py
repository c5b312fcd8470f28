"""`python -m supervisor`: the command line.  The fork server imports this module again, hence the guard."""

import sys

from supervisor.cli import main

if __name__ == "__main__":
    sys.exit(main())
