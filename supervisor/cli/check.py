"""`kimi-proxy check`."""

import argparse
import os
import sys

from shared import VERSION
from supervisor.cli.interrupt import interruptible
from supervisor.cli.launcher.checkup import Checkup, Layer, Name, State
from supervisor.cli.layout import Tone
from supervisor.cli.out import show_json
from supervisor.cli.terminal import painted, wants_colours
from supervisor.cli.text import printable

_MARKS: dict[State, tuple[str, str, Tone]] = {
    "ok": ("✓", "+", "good"),
    "failed": ("✗", "x", "bad"),
    "not_tried": ("–", "-", "heading"),
}
"""As it is, where the terminal's encoding has no such character, and the colour."""
_TITLES: dict[Name, str] = {"claude": "Claude Code", "round_trip": "round trip"}
_WIDTH = 13


def check(arguments: argparse.Namespace) -> int:
    """Look at every layer from the configuration to an answer, and say how to mend what is wrong; 1 if any is."""
    with interruptible():
        layers = []
        colours = wants_colours(sys.stdout)
        for layer in Checkup(arguments.config, dict(os.environ)).layers():
            layers.append(layer)
            if not arguments.json:
                print(render(layer, colours=colours, encoding=sys.stdout.encoding), flush=True)
        failed = sum(layer.state == "failed" for layer in layers)
        if arguments.json:
            show_json({"ok": not failed, "version": VERSION, "layers": layers})
        else:
            print(f"\n{_summary(failed)}")
    return 1 if failed else 0


def render(layer: Layer, *, colours: bool, encoding: str) -> str:
    """A line for the layer, and one below it for its fix."""
    mark, plain, tone = _MARKS[layer.state]
    if not _can_say(mark, encoding):
        mark = plain
    title = _TITLES.get(layer.layer, layer.layer)
    lines = [f"{painted(mark, tone) if colours else mark} {title:<{_WIDTH}}{printable(layer.text)}"]
    if layer.state == "failed" and layer.fix:
        arrow = "→" if _can_say("→", encoding) else ">"
        fix = f"{arrow} {printable(layer.fix)}"
        lines.append(f"{'':{_WIDTH + 2}}{painted(fix, 'bad') if colours else fix}")
    return "\n".join(lines)


def _summary(failed: int) -> str:
    if not failed:
        return "All is well. Start Claude Code with: kimi-proxy launch"
    return f"{failed} thing{' is' if failed == 1 else 's are'} to be mended: do what the arrow says, then check again."


def _can_say(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
