"""A provider's own web search, asked in a conversation of its own.

    builtin   Kimi's tool `$web_search` of the type `builtin_function`: the model calls it, and the call's arguments go
              back as its result, word for word; Kimi searches before the model reads on
    tool      Anthropic's server tool `web_search`
    plugin    OpenRouter's plug-in `web`, which searches before the model is asked

(`Translation.web_search`.)  It is no tool of the run's own turns: Kimi can't search while it thinks
(platform.kimi.ai, "Use Kimi API's Internet Search Functionality"), and what was found need not be paid for in every
later turn of the run.
"""

from collections.abc import Awaitable, Callable

from msgspec import Raw, structs

from shared.config import Provider
from shared.errors import DialectError, UpstreamError
from worker.agent.errors import ToolError
from worker.dialects.neutral import (
    Answer,
    Message,
    Reasoning,
    Request,
    ServerTool,
    Text,
    ToolCall,
    ToolResult,
)
from worker.dialects.openai.encode_request import BUILT_IN, PLUGIN
from worker.streaming.refusal import sentence

Ask = Callable[[Request], Awaitable[Answer]]
"""One turn of this provider's: the whole answer, counted with the run.  Raises `UpstreamError`, `DialectError`."""

MAX_TURNS = 5
"""A model that then still searches is stopped."""
MAX_TOKENS = 4096

_TOOLS = {
    "builtin": ServerTool(
        "$web_search", BUILT_IN, Raw(b'{"type":"builtin_function","function":{"name":"$web_search"}}')
    ),
    "plugin": ServerTool("web", PLUGIN, Raw(b'{"id":"web"}')),
    "tool": ServerTool(
        "web_search",
        "web_search_20250305",
        Raw(b'{"type":"web_search_20250305","name":"web_search","max_uses":3}'),
    ),
}
_INSTRUCTIONS = (
    "You are a search engine. Search the web for what the user asks. Answer with what you found and nothing else: "
    "for each result that matters its title, its full URL and what it says on the question, the most relevant first. "
    "Add nothing from memory; where nothing was found, say so."
)


def can_search(provider: Provider) -> bool:
    """Whether `search` may be asked of this provider."""
    return provider.translation.web_search in _TOOLS


async def search(ask: Ask, provider: Provider, query: str) -> str:
    """What the provider found for `query`, in its model's words, with the sources.

    `ask` has to ask this provider: what it can search with is told in its own way.  Raises `ToolError`.
    """
    request = Request(
        system=(Text(_INSTRUCTIONS),),
        messages=(Message("user", (Text(query),)),),
        tools=(_TOOLS[provider.translation.web_search],),
        max_tokens=MAX_TOKENS,
        reasoning=Reasoning("disabled"),
        stream=True,
    )
    for _ in range(MAX_TURNS):
        try:
            answer = await ask(request)
        except (UpstreamError, DialectError) as error:
            raise ToolError(f"the search of provider {provider.name} failed: {sentence(error)}") from error
        calls = [part for part in answer.parts if isinstance(part, ToolCall)]
        if not calls:
            return _found(answer, provider)
        request = _gone_on(request, answer, calls)
    raise ToolError(f"provider {provider.name} was still searching after {MAX_TURNS} turns: ask for less at once")


def _gone_on(request: Request, answer: Answer, calls: list[ToolCall]) -> Request:
    """The conversation with the model's calls in it, and what answers them: their own arguments."""
    results = tuple(ToolResult(call.id, (Text(call.arguments),)) for call in calls)
    messages = (*request.messages, Message("assistant", answer.parts), Message("user", results))
    return structs.replace(request, messages=messages)


def _found(answer: Answer, provider: Provider) -> str:
    text = "".join(part.text for part in answer.parts if isinstance(part, Text)).strip()
    if not text:
        raise ToolError(f"the search of provider {provider.name} found nothing: try other words")
    return text
