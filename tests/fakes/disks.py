"""Small disks and disks that can't be written; a test that can't mount one is skipped."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def _mounted(place: Path, *how: str) -> Iterator[None]:
    _run("mount", *how, str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "2m") -> Iterator[Path]:
    """An empty disk of that size at `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs"):
        yield folder


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """No byte more finds room on the disk of `folder`."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 16, 1 << 10, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Whoever opens a file in the folder from now on can only read it."""
    # Made elsewhere, where nobody has opened a file to write it before it is read-only.
    aside = folder.with_name(f"{folder.name}-read-only")
    aside.mkdir()
    with _mounted(aside, "--bind", str(folder)):
        _run("mount", "-o", "remount,bind,ro", str(aside))
        with _mounted(folder, "--bind", str(aside)):
            yield
