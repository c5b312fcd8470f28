"""Imported by the fork server before anything else, and by nobody else.

A signal to the group must not end it; its children are born with the same handlers, so there is no moment in which such
a signal kills a young worker.  When it ends, the folder of its socket goes, also where its supervisor was killed.
"""

import atexit
import os
import shutil
import sys
from types import TracebackType

from shared.entry import FOLDER_VARIABLE, ignore_group_signals


def _remove(folder: str, server: int) -> None:
    if os.getpid() == server:  # and not a child of it
        shutil.rmtree(folder, ignore_errors=True)


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if kind is not EOFError:  # the supervisor was killed while it told a worker what to do
        sys.__excepthook__(kind, error, traceback)


ignore_group_signals()
sys.excepthook = _tell
if FOLDER_VARIABLE in os.environ:
    atexit.register(_remove, os.environ.pop(FOLDER_VARIABLE), os.getpid())
