"""Which words of `kimi-proxy launch …` are ours, and which go to Claude Code.  Pure.

Ours are `--model`, `--claude` and `--config` with their values, wherever they stand before a `--`; `--help` only as
the first word that is not one of them.  Everything else is Claude Code's, untouched and in its order, and so is all
that stands behind the first `--`, which itself goes to nobody.
"""

from collections.abc import Sequence

OPTIONS = ("--model", "--claude", "--config")
_HELP = ("-h", "--help")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """`words` after `launch` as (ours, Claude Code's); whether ours make sense is for the parser to say."""
    ours: list[str] = []
    theirs: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            theirs += words[at:]
            break
        if word in OPTIONS:
            ours += words[at - 1 : at + 1]
            at += 1
        elif word.partition("=")[0] in OPTIONS or (word in _HELP and not theirs):
            ours.append(word)
        else:
            theirs.append(word)
    return ours, theirs
