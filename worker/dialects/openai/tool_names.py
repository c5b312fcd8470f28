"""Names of tools that are too long for OpenAI's dialect, where Anthropic takes twice as many characters.

Claude Code makes such names of those of plug-in, server and tool: `mcp__plugin_<plug-in>_<server>__<tool>`.
"""

import hashlib
from collections.abc import Iterable

from worker.dialects.neutral import ServerTool, Tool

MAX_CHARS = 64
_DIGEST_CHARS = 8


def short_name(name: str) -> str:
    """`name`, or its beginning and a digest of all of it: the same in every request."""
    if len(name) <= MAX_CHARS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: MAX_CHARS - _DIGEST_CHARS - 1]}_{digest}"


def long_names(tools: Iterable[Tool | ServerTool]) -> dict[str, str]:
    """The way back: short name → the client's."""
    return {short_name(tool.name): tool.name for tool in tools if len(tool.name) > MAX_CHARS}
