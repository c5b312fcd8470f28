"""A secret that was given as an argument, out of the sight of `ps`."""

from contextlib import suppress
from pathlib import Path

_ARGUMENTS_FIELD = 48
"""Of /proc/self/stat: where the arguments begin in memory, then where they end (proc(5))."""


def conceal(secret: str) -> None:
    """Overwrite `secret` among the arguments of this process, as far as the kernel lets us; nothing is raised.

    For a moment it was there, and in the shell's history it stays.
    """
    with suppress(OSError, ValueError, IndexError):
        # The second field, the name, may hold blanks and brackets.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin, end = (int(field) for field in fields[_ARGUMENTS_FIELD - 3 : _ARGUMENTS_FIELD - 1])
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            memory.seek(begin)
            arguments = memory.read(end - begin)
            at = arguments.find(secret.encode())
            if secret and at >= 0:
                memory.seek(begin + at)
                memory.write(b"x" * len(secret.encode()))
