"""What a new configuration changes, and how much of that running workers can take in place."""

from msgspec import Struct

from shared.config import Config

BOUND_AT_BIRTH = ("bind", "keep_alive_timeout", "max_header_bytes")
"""Settings of `[server]` that a worker takes over once, with its sockets: a change replaces the workers."""


class Changes(Struct, frozen=True):
    """The difference between two configurations."""

    sections: tuple[str, ...]
    """The names of the sections that differ."""
    replaces_workers: tuple[str, ...]
    """The settings among them that can't be changed in place."""


def compare(old: Config, new: Config) -> Changes:
    """What `new` changes of `old`."""
    return Changes(
        sections=tuple(
            name for name in Config.__struct_fields__ if name != "source" and getattr(old, name) != getattr(new, name)
        ),
        replaces_workers=tuple(
            name for name in BOUND_AT_BIRTH if getattr(old.server, name) != getattr(new.server, name)
        ),
    )


def describe(changes: Changes, *, keys_changed: bool) -> str:
    """A sentence for people."""
    what = [*changes.sections, *(["keys"] if keys_changed else [])]
    if not what:
        return "the configuration is in force; nothing has changed"
    said = f"the configuration is in force; changed: {', '.join(what)}"
    if changes.replaces_workers:
        said += f"; the workers are replaced one by one for {', '.join(changes.replaces_workers)}"
    return said
