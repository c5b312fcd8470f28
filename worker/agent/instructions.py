"""What a run tells its model before the user's words.  Pure."""

from collections.abc import Collection

from shared.config import Agent
from worker.dialects.neutral import Text

_AGENT = """\
You are an agent that works with tools in the folder {workspace}, and you may not leave it. Relative paths begin there.

Do what the user asks, with as few tools as it takes, and no more than that. Look before you change something: read a \
file before you edit it. Call tools that don't depend on each other together, in one turn. When a tool answers with an \
error, read it, and try what it suggests. You have {turns} turns; when you know enough, answer.

Answer in the user's language, and briefly. The user sees your text, not what the tools say: tell what matters of it."""
_ALONE = """\


You were started by another agent for a part of its work. It gets your last answer and nothing else, and can't be \
asked: decide for yourself, and answer with all that it needs."""


def instructions(settings: Agent, tools: Collection[str], *, max_steps: int, nested: bool = False) -> tuple[Text, ...]:
    """The system's part of the conversation; of a `nested` run it says that nobody can be asked."""
    text = _AGENT.format(workspace=settings.workspace, turns=max_steps)
    if nested:
        text += _ALONE
    elif "TodoWrite" in tools:
        text += "\n\nFor work of three steps or more keep a list with TodoWrite, and go by it."
    return (*((Text(settings.system),) if settings.system.strip() else ()), Text(text))
