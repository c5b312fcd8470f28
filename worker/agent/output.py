"""Bounds on what a tool tells the model.  Pure."""


def cut(text: str, max_chars: int) -> str:
    """`text`; of one longer than `max_chars` so much of its beginning and its end, with a mark in between.

    The mark, one line, comes on top and says how much is left out: whole lines where that costs little.  What can't be
    sent is replaced.
    """
    text = sendable(text)
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    head, tail = text[:half], text[len(text) - half :]
    # A line that is cut in two misleads more than one that lacks, unless it is most of what there is.
    if (end := head.rfind("\n") + 1) > half // 2:
        head = head[:end]
    if 0 < (start := tail.find("\n") + 1) < half // 2:
        tail = tail[start:]
    left_out = len(text) - len(head) - len(tail)
    lines = text.count("\n", len(head), len(head) + left_out)
    also = f", {lines:,} lines of it," if lines > 1 else ""
    break_before = "" if not head or head.endswith("\n") else "\n"
    return f"{head}{break_before}[… {left_out:,} characters{also} left out here …]\n{tail}"


def sendable(text: str) -> str:
    """`text` without halves of surrogate pairs, which UTF-8 can't say; names of files that aren't UTF-8 have them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def shown(name: str) -> str:
    """A name or path as it stands in a line: one with line breaks or the like in it can't pass for several."""
    return name if name.isprintable() else repr(name)
