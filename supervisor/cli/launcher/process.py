"""Claude Code as a child that has the terminal, until it ends.

It lives in our process group, so that the terminal's keys (Ctrl-C) reach it without us; the signals that a person or a
program sends to us are passed on.  If it stops itself (Ctrl-Z), so do we, and the shell gets the
terminal back.
"""

import os
import signal
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from shared.errors import ControlError
from supervisor.cli.interrupt import Held

_PASSED_ON = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
}
_ASK_TO_END = {signal.SIGTERM, signal.SIGHUP}
_KILL_AFTER = 10.0
"""How long it may take to end when it was asked to."""
# Python ignores them; a child would, too.
_NOT_OURS = (signal.SIGPIPE, signal.SIGXFSZ)


def run_child(command: Sequence[str], env: Mapping[str, str], kept: Held) -> int:
    """Start it and wait for its end: its exit code, 128 and the signal's number if one has killed it.

    If a signal has come before it could be started, `Interrupted`.  For a process without threads.
    """
    passed_on = {signum for signum in _PASSED_ON if signal.getsignal(signum) is not signal.SIG_IGN}
    # Blocked, and waited for: none gets lost, and the kernel tells who has sent it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed_on | {signal.SIGCHLD})
    try:
        kept.check()
        with _terminal_restored():
            try:
                pid = os.posix_spawn(command[0], list(command), env, setsigmask=before, setsigdef=_NOT_OURS)
            except OSError as error:
                raise ControlError(f"{command[0]} can't be started: {error.strerror}") from error
            return _wait(pid, passed_on)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(pid: int, passed_on: set[signal.Signals]) -> int:
    deadline: float | None = None
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            # Not SIGSTOP: where no shell could wake us, this one does nothing, and the child has to go on, too.
            os.kill(os.getpid(), signal.SIGTSTP)
            os.kill(pid, signal.SIGCONT)
            continue
        if found:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        waited = {*passed_on, signal.SIGCHLD}
        if deadline is None:
            info: signal.struct_siginfo | None = signal.sigwaitinfo(waited)
        else:
            info = signal.sigtimedwait(waited, max(0.0, deadline - time.monotonic()))
        if info is None:
            os.kill(pid, signal.SIGKILL)
            deadline = None
        elif info.si_signo != signal.SIGCHLD:
            # By kill(2), or the end of a terminal, of which the kernel tells the first process in it alone.  What its
            # keys mean it has told the whole group.
            if info.si_code <= 0 or info.si_signo == signal.SIGHUP:
                os.kill(pid, info.si_signo)
            if info.si_signo in _ASK_TO_END and deadline is None:
                deadline = time.monotonic() + _KILL_AFTER


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """What a program that was killed has changed of the terminal's settings is as it was."""
    settings = None
    with suppress(OSError, termios.error):
        settings = termios.tcgetattr(0)
    try:
        yield
    finally:
        with suppress(OSError, termios.error):
            # Somebody else's terminal by now is none of our business, and touching it would stop us.
            if settings is not None and os.tcgetpgrp(0) == os.getpgrp() and termios.tcgetattr(0) != settings:
                termios.tcsetattr(0, termios.TCSADRAIN, settings)
