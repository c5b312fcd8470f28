"""Who descends from a process, from /proc, and its end.

A warden is a *subreaper* (prctl(2)): what its program leaves without a parent becomes the warden's own child, however
often it forked and whatever session it went to.  So nothing that a program starts can leave its tree, and a `waitpid`
that finds no child proves that nothing is left.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator

PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PRYING = (19, 21, 38)
"""CAP_SYS_PTRACE, CAP_SYS_ADMIN and CAP_PERFMON (capabilities(7)): any of them opens the memory of others."""
FREEZES = 50
"""After so many rounds in which there were always more, what is known is killed and the count begins anew."""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Raises `OSError`."""
    if _libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def children(pid: int) -> list[int]:
    """The living children, zombies included; [] if the process is gone."""
    if not os.path.exists("/proc/thread-self/children"):  # a kernel without CONFIG_PROC_CHILDREN
        return [child for child, parent in _parents() if parent == pid]
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Every process and its parent (proc(5), stat)."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/{name}/stat", "rb") as file,
            ):
                yield int(name), int(file.read().rpartition(b")")[2].split()[1])


def descendants(pids: Iterable[int]) -> list[int]:
    """Everybody below these, parents before their children."""
    found: dict[int, None] = {}
    wanted = list(pids)
    while wanted:
        for child in children(wanted.pop()):
            if child not in found:
                found[child] = None
                wanted.append(child)
    return list(found)


def send(pids: Iterable[int], signum: signal.Signals) -> None:
    """A signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def kill(roots: Iterable[int]) -> None:
    """SIGKILL to these and to everybody below them; the caller repeats it until nothing is left.

    They are stopped first, until a look finds nobody new: what forks faster than it is killed would never end.
    """
    roots = list(roots)
    frozen: dict[int, None] = {}
    new = roots
    for _ in range(FREEZES):
        send(new, signal.SIGSTOP)
        frozen.update(dict.fromkeys(new))
        new = [pid for pid in descendants(roots) if pid not in frozen]
        if not new:
            break
    send(frozen, signal.SIGKILL)
