"""Questions to the person at the terminal: a choice, a line of text, a secret, yes or no.

    prompt = Prompt(yes=arguments.yes)
    provider = prompt.choose("Which provider?", options, default="kimi", flag="--provider NAME")

Questions and answers are on stderr and stdin, so that stdout stays for data.  Enter takes the default, and a wrong
answer is explained and asked for again.  Where nobody is asked the default is the answer with `yes`, and without it if
the caller says that it is `safe`; else `UsageError` names the flag that gives the answer.  Ctrl-C raises
`KeyboardInterrupt`, with the terminal as it was.
"""

import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from msgspec import Struct

from shared.config.faults import nearest
from shared.errors import ControlError, UsageError

T = TypeVar("T")
Check = Callable[[str], str | None]
"""What is wrong with an answer, as a clause; None if nothing is."""


class Option(Struct, frozen=True):
    """One of several: `name` can be typed in the place of its number; `text` is what is shown."""

    name: str
    text: str


class Prompt:
    """See the module.  For the main thread of a command."""

    def __init__(self, *, yes: bool = False) -> None:
        """`yes`: nothing is asked, and defaults are the answers."""
        self._yes = yes
        self.interactive = not yes and _is_terminal(sys.stdin) and _is_terminal(sys.stderr)
        """Whether there is somebody to ask."""

    def say(self, text: str = "") -> None:
        """A line that is no question."""
        print(text, file=sys.stderr, flush=True)

    def choose(
        self,
        question: str,
        options: Sequence[Option],
        *,
        default: str | None,
        flag: str,
        safe: bool = False,
        heading: str | None = None,
    ) -> str:
        """The name of one of `options`; `heading` stands above their texts."""
        if not self.interactive:
            return self._default(default, question, flag, safe)
        names = [option.name for option in options]
        self.say(f"\n{question}")
        if heading is not None:
            self.say(f"      {heading}")
        for number, option in enumerate(options, start=1):
            self.say(f"  {number:>2}  {option.text}")
        hint = "" if default is None else f" [{names.index(default) + 1}]"
        while True:
            answer = self._line(f"1 to {len(options)}{hint}: ").strip().lower() or default
            if answer is not None and answer.isdecimal() and 1 <= int(answer[:4]) <= len(options):
                return names[int(answer) - 1]
            if answer in names:
                return answer
            close = nearest(answer, names) if answer else None
            meant = f"; did you mean {close}?" if close else ""
            self.say(f"  type a number from 1 to {len(options)}, or a name of the list{meant}")

    def text(
        self, question: str, *, default: str | None, flag: str, safe: bool = False, check: Check | None = None
    ) -> str:
        """A line, without the blanks around it."""
        if not self.interactive:
            return self._default(default, question, flag, safe)
        hint = "" if default is None else f" [{default}]"
        while True:
            answer = self._line(f"{question}{hint}: ").strip() or default
            problem = "type an answer" if answer is None else check(answer) if check else None
            if answer is not None and problem is None:
                return answer
            self.say(f"  {problem}")

    def secret(
        self, question: str, *, default: str | None, flag: str, safe: bool = False, check: Check | None = None
    ) -> str | None:
        """A line that is not shown; None for an empty one, which stands for what `default`, if given, says."""
        if not self.interactive:
            return self._default(None if default is None else "", question, flag, safe) or None
        hint = "" if default is None else f" [Enter: {default}]"
        while True:
            with _silent():
                answer = self._line(f"{question}{hint}, it is not shown: ").strip()
            self.say()
            if not answer and default is not None:
                return None
            problem = check(answer) if answer and check else None if answer else "paste or type the key"
            if problem is None:
                return answer
            self.say(f"  {problem}")

    def confirm(self, question: str, *, default: bool, flag: str, safe: bool = False) -> bool:
        """Yes or no."""
        if not self.interactive:
            return self._default(default, question, flag, safe)
        while True:
            answer = self._line(f"{question} [{'Y/n' if default else 'y/N'}]: ").strip().lower()
            if not answer:
                return default
            if answer in ("y", "yes", "n", "no"):
                return answer.startswith("y")
            self.say("  type y or n")

    def _default(self, default: T | None, question: str, flag: str, safe: bool) -> T:
        if (self._yes or safe) and default is not None:
            return default
        why = "--yes has no answer to this" if self._yes else "there is no terminal to ask at"
        raise UsageError(f'{why}; answer "{question.strip()}" by {flag}')

    def _line(self, prompt: str) -> str:
        while True:
            sys.stderr.write(prompt)
            sys.stderr.flush()
            try:
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                self.say()  # what the shell prints next has a line of its own
                raise
            except UnicodeDecodeError:
                self.say("  that was no text in UTF-8")
                continue
            if not line.endswith("\n"):  # Ctrl-D
                self.say()
                raise ControlError("there was no answer; nothing was changed")
            return line


def _is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty())


@contextmanager
def _silent() -> Iterator[None]:
    """No echo meanwhile.  What was typed before its time is kept, unlike with `getpass`, which throws it away."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    silent = before[:]
    silent[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, silent)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
