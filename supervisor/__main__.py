"""`python -m supervisor`: the command line.  The fork server imports this module again, hence the guards."""

import signal
import sys

_interrupt = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and _interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported there is nothing to undo, nor to say

from supervisor.cli import main  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupt)
    sys.exit(main())
