"""What other processes of the same user may see of this one: a program that the agent runs is one of them."""

import ctypes
import os

_PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Keep /proc/<pid>/environ and mem, and debuggers, from whoever is not root; those forked later, too (prctl(2)).

    There is no core dump then.  Lasts until another program is executed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), *[ctypes.c_ulong(0)] * 3) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
