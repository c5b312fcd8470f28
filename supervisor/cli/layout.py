"""What `kimi-proxy top` shows: the service, its workers, providers and live streams, laid out for any size of screen.

Pure: what there is goes in, lines come out.  The header always has its place; the three tables share what is left of
the screen evenly, and what one of them does not need goes to the others.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

from supervisor.cli.live import LiveStream, finishing
from supervisor.cli.text import clip, columns, duration, printable, size
from supervisor.control import ProviderStatus, StatusReply, WorkerStatus

Tone = Literal["plain", "title", "heading", "good", "fair", "bad"]
Paint = Callable[[str, Tone], str]
Cell = tuple[str, Tone]

_GAP = "  "
# A blank line and the heading.
_TABLE_EXTRA = 2


class Table(Struct, frozen=True):
    """Rows of cells below a heading; the columns whose numbers are in `right` are aligned right."""

    heading: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: frozenset[int]


def unpainted(text: str, _tone: Tone) -> str:
    """Without colours."""
    return text


def render(
    status: StatusReply,
    streams: list[LiveStream],
    width: int,
    height: int,
    paint: Paint = unpainted,
    note: str | None = None,
) -> list[str]:
    """At most `height` lines of at most `width` columns; what does not fit is cut, and rows left out are counted.

    `paint` dresses a piece of a line for its tone, in a way that takes no columns.  `note`: why this is not of now.
    """
    lines = _header(status, streams)
    if note is not None:
        lines.insert(1, [(note, "bad")])
    tables = (_workers(status.workers), _providers(status.providers), _streams(streams))
    wanted = [len(table.rows) + _TABLE_EXTRA if table.rows else 0 for table in tables]
    for table, room in zip(tables, share(height - len(lines), wanted), strict=True):
        lines += _table(table, room)
    return [_line(line, width, paint) for line in lines[:height]]


def share(room: int, wanted: Sequence[int]) -> list[int]:
    """`room` among those who want it: nobody gets more than wanted, and small wishes are granted before large ones."""
    room = max(0, room)
    shares = [0] * len(wanted)
    waiting = sorted(range(len(wanted)), key=lambda index: wanted[index])
    while waiting:
        index = waiting.pop(0)
        shares[index] = min(wanted[index], room // (len(waiting) + 1))
        room -= shares[index]
    return shares


def _header(status: StatusReply, streams: list[LiveStream]) -> list[list[Cell]]:
    totals = status.totals
    rate = sum(stream.tokens_per_second for stream in streams)
    serving = sum(worker.state == "serving" for worker in status.workers)
    lines: list[list[Cell]] = [
        [
            (f"kimi-proxy {status.version}", "title"),
            (_GAP, "plain"),
            (status.state, "good" if status.state == "running" else "fair"),
            (f" for {duration(status.uptime)} (pid {status.pid}){_GAP}{', '.join(status.bind)}", "plain"),
        ],
        [
            (
                f"streams  {totals.active} active, {totals.completed} completed, {totals.cancelled} cancelled, "
                f"{totals.failed} failed of {totals.started}",
                "plain",
            )
        ],
        [
            (
                f"tokens   {rate:.1f}/s, {totals.prompt_tokens} prompt, {totals.completion_tokens} completion",
                "plain",
            )
        ],
        [("workers  ", "plain"), (f"{serving} of {status.workers_wanted} serving", _enough(serving, status))],
    ]
    problems = (
        ("refused", status.config_error),
        ("crashes", status.crash_loop),
        ("storage", status.storage.problem),
    )
    lines += [[(f"{name}  {problem}", "bad")] for name, problem in problems if problem]
    return lines + [[(f"elder    {finishing(elder)}", "plain")] for elder in status.elders]


def _enough(serving: int, status: StatusReply) -> Tone:
    if serving >= status.workers_wanted:
        return "good"
    return "fair" if serving else "bad"


def _workers(workers: list[WorkerStatus]) -> Table:
    tones: dict[str, Tone] = {"serving": "good", "stuck": "bad"}
    return Table(
        ("WORKER", "PID", "STATE", "UP", "STREAMS", "CONNECTIONS", "MEMORY", "LAG", "RESTARTS"),
        [
            (
                (str(worker.worker), "plain"),
                (str(worker.pid), "plain"),
                (worker.state, tones.get(worker.state, "fair")),
                (duration(worker.uptime), "plain"),
                (str(worker.streams), "plain"),
                (str(worker.connections), "plain"),
                (size(worker.rss_bytes), "plain"),
                (f"{worker.lag * 1000:.0f} ms", "plain" if worker.lag < 0.1 else "fair"),
                (str(worker.restarts), "plain" if not worker.restarts else "fair"),
            )
            for worker in workers
        ],
        frozenset((0, 1, 4, 5, 6, 7, 8)),
    )


def _providers(providers: list[ProviderStatus]) -> Table:
    tones: dict[str, Tone] = {"healthy": "good", "open": "bad"}
    return Table(
        ("PROVIDER", "HEALTH", "ACTIVE", "COMPLETED", "CANCELLED", "FAILED", "LAST ERROR"),
        [
            (
                (provider.name, "plain"),
                (provider.health, tones.get(provider.health, "fair")),
                (str(provider.active), "plain"),
                (str(provider.completed), "plain"),
                (str(provider.cancelled), "plain"),
                (str(provider.failed), "plain"),
                (provider.last_error or "", "plain"),
            )
            # Those that have something to do first, as the list may be cut.
            for provider in sorted(providers, key=lambda provider: (provider.health == "healthy", -provider.active))
        ],
        frozenset((2, 3, 4, 5)),
    )


def _streams(streams: list[LiveStream]) -> Table:
    return Table(
        # The long names last: on a narrow screen they are what is cut.
        ("WORKER", "AGE", "TOKENS", "TOKENS/S", "PROVIDER", "MODEL", "SESSION", "STREAM"),
        [
            (
                (str(stream.worker), "plain"),
                (duration(stream.age), "plain"),
                (str(stream.tokens), "plain"),
                (f"{stream.tokens_per_second:.1f}", "plain"),
                (stream.provider, "plain"),
                (clip(stream.model, 32), "plain"),
                (clip(stream.session or "", 24), "plain"),
                (stream.id, "plain"),
            )
            for stream in streams
        ],
        frozenset((0, 2, 3)),
    )


def _table(table: Table, room: int) -> list[list[Cell]]:
    """The table in at most `room` lines, a blank one in front; nothing where neither a row nor their number fits."""
    if room <= _TABLE_EXTRA:
        return []
    rows = table.rows
    left_out = len(rows) + _TABLE_EXTRA - room
    if left_out > 0:
        left_out += 1  # the line that says so takes one more
        rows = rows[: len(rows) - left_out]
    cells: list[Sequence[Cell]] = [[(name, "heading") for name in table.heading], *rows]
    widths = [max(columns(printable(row[column][0])) for row in cells) for column in range(len(table.heading))]
    lines: list[list[Cell]] = [[]]
    for row in cells:
        line: list[Cell] = []
        for column, ((text, tone), width) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (width - columns(printable(text)))
            first, second = ((padding, "plain"), (text, tone)), ((text, tone), (padding, "plain"))
            line += [*(first if column in table.right else second), (_GAP, "plain")]
        lines.append(line)
    if left_out > 0:
        lines.append([(f"… {left_out} more", "heading")])
    return lines


def _line(cells: Sequence[Cell], width: int, paint: Paint) -> str:
    """One line of at most `width` columns, without blanks at its end."""
    text = "".join(printable(cell) for cell, _ in cells)
    kept = clip(text.rstrip(), width)
    shown, at = [], 0
    for cell, tone in cells:
        piece = kept[at : at + len(cell)]
        at += len(cell)
        shown.append(paint(piece, tone) if piece.strip() else piece)
    return "".join(shown)
