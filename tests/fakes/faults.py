"""The catalogue of faults: each row is a test that does something to a running service, and a line in docs/faults.md.

    @fault(
        "`kill -9` of a worker",
        family="Processes",
        saw="the streams it held were cut, all others went on",
        kept="a record `failed`/`worker_died` for each of those, with the tokens heard of",
    )
    async def test_a_killed_worker(scene: Scene) -> None:
        pid, _ = await scene.busiest()
        scene.injected()                    # recovery is measured from here
        os.kill(pid, signal.SIGKILL)
        await scene.recovered()             # the service answers as before
        await scene.settle()                # all that was asked has ended
        assert …                            # what `saw` and `kept` claim: no word of them that isn't checked

Around each row the catalogue keeps a steady load of streams up (`load=0`: none), and after it calls `scene.aftermath`,
which checks what must be true after any fault.  Rows with the same `setup` share a service, so a row leaves it as it
was; `alone=True` has a service of its own, which the row may ruin (it is killed afterwards; with `aftermath=False`
nothing is checked either).  `lasting=True`: the fault has an end, and the row calls `scene.injected()` there.

`catalogue()` has all rows; a mix of them is `for row in catalogue(): await row.inject(scene)` for those that are not
`alone`, under whatever load, one after the other.  With KIMI_PROXY_WRITE_DOCS=1 the tests write docs/faults.md.
"""

import fcntl
import importlib
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from fakes.scene import Scene, Setup

FOLDER = Path(__file__).parents[1] / "faults"
DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- the catalogue, written by its tests -->\n", "<!-- end -->\n"
FAMILIES = (
    "Processes",
    "Signals",
    "Configuration",
    "Listening",
    "Descriptors",
    "Storage",
    "Pipes",
    "Log",
    "Clock",
    "Files",
    "Clients",
    "Upstreams",
)
"""In the order of the document."""
CLASSES = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Borders between the classes of recovery, in seconds."""
UNMEASURED = "not measured"


@dataclass(frozen=True)
class Fault:
    """One row."""

    name: str
    family: str
    saw: str
    kept: str
    inject: Callable[[Scene], Awaitable[None]]
    """Does it, and checks what clients saw and what was kept."""
    setup: Setup
    alone: bool
    aftermath: bool
    load: int
    lasting: bool
    because: str

    @property
    def words(self) -> tuple[str, str, str, str]:
        """What the document says of it, but for what was measured."""
        return self.family, self.name, self.saw, self.kept

    def recovered(self, seconds: float | None) -> str:
        """The document's last column."""
        if seconds is None:
            return "–" if not self.because else self.because
        end = " after its end" if self.lasting else ""
        because = f" ({self.because})" if self.because else ""
        return f"{in_class(seconds)}{end}{because}"


class Stage(Protocol):
    """Plays rows: the fixture of that name."""

    def play(self, fault: Fault) -> None: ...


def fault(
    name: str,
    *,
    family: str,
    saw: str,
    kept: str,
    setup: Setup | None = None,
    alone: bool = False,
    aftermath: bool = True,
    load: int = 2,
    lasting: bool = False,
    because: str = "",
) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[Stage], None]]:
    """Make a row of an async test function of a scene; see the module.  `because` explains the time of recovery."""
    assert family in FAMILIES, family

    def decorate(inject: Callable[[Scene], Awaitable[None]]) -> Callable[[Stage], None]:
        row = Fault(name, family, saw, kept, inject, setup or Setup(), alone, aftermath, load, lasting, because)

        def play(stage: Stage) -> None:
            stage.play(row)

        play.__name__ = play.__qualname__ = inject.__name__
        play.__doc__, play.__module__ = inject.__doc__, inject.__module__
        play.fault = row
        return play

    return decorate


def catalogue() -> list[Fault]:
    """All rows, by family, each family in the order of the files."""
    rows: list[Fault] = []
    for file in sorted(FOLDER.glob("test_*.py")):
        module = importlib.import_module(f"faults.{file.stem}")
        rows += [value.fault for value in vars(module).values() if isinstance(getattr(value, "fault", None), Fault)]
    return sorted(rows, key=lambda row: FAMILIES.index(row.family))


def in_class(seconds: float) -> str:
    """A measured time, so rounded that another run says the same."""
    if seconds < CLASSES[0]:
        return f"< {CLASSES[0]:g} s"
    for low, high in pairwise(CLASSES):
        if seconds < high:
            return f"{low:g} to {high:g} s"
    return f"> {CLASSES[-1]:g} s"


# --- the document


def documented(text: str) -> dict[tuple[str, str, str, str], str]:
    """The rows of the document's tables: their words, and the last column."""
    rows = {}
    family = ""
    for line in text.partition(BEGIN)[2].partition(END)[0].splitlines():
        if line.startswith("### "):
            family = line[4:]
        elif line.startswith("| ") and not line.startswith(("| fault |", "| --- |")):
            name, saw, kept, measured = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            rows[family, name, saw, kept] = measured
    return rows


def tables(rows: list[Fault], measured: dict[tuple[str, str, str, str], str]) -> str:
    """Markdown: one table a family."""
    lines: list[str] = []
    for family in FAMILIES:
        of_family = [row for row in rows if row.family == family]
        if not of_family:
            continue
        lines += ["", f"### {family}", "", "| fault | what clients saw | what was kept | recovered after |"]
        lines += ["| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join([*row.words[1:], measured.get(row.words, UNMEASURED)])} |" for row in of_family]
    return "\n".join([*lines, "", ""])


def write_row(row: Fault, seconds: float | None) -> None:
    """Put what was measured of one row into the document, and all else as the catalogue has it now.

    Several processes may do so at a time.
    """
    with DOCUMENT.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        measured = {**documented(text), row.words: row.recovered(seconds)}
        before, _, rest = text.partition(BEGIN)
        new = before + BEGIN + tables(catalogue(), measured) + END + rest.partition(END)[2]
        if new != text:
            file.seek(0)
            file.truncate()
            file.write(new)


def writes_documentation() -> bool:
    """Whether this run is to write the document."""
    return os.environ.get("KIMI_PROXY_WRITE_DOCS") == "1"
