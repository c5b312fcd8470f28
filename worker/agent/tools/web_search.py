"""WebSearch: the provider's own search where it has one, else the endpoint that the settings name."""

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from worker.agent.errors import ToolError
from worker.agent.fetch import Fetcher, Page
from worker.agent.output import cut
from worker.agent.tools.base import Context, Tool
from worker.agent.tools.web_fetch import text_of
from worker.dialects.lenient import BAD_JSON

MAX_QUERY_CHARS = 1000
MAX_RESULTS = 20
MAX_DEPTH = 6
"""Of an answer in JSON, down to its list of results."""
_URLS = ("url", "link", "href")
_TITLES = ("title", "name")
_EXCERPTS = ("content", "snippet", "description", "body", "text")

Domains = tuple[str, ...]


class WebSearchArguments(Struct, frozen=True):
    """See the module."""

    query: Annotated[str, Meta(description="What to search for")]
    allowed_domains: Annotated[Domains, Meta(description="Only results from these domains")] = ()
    blocked_domains: Annotated[Domains, Meta(description="No results from these domains")] = ()


class WebSearch(Tool[WebSearchArguments]):
    """See the module."""

    name = "WebSearch"
    description = "Searches the web and returns what was found, with its addresses; WebFetch reads one of them."
    arguments = WebSearchArguments

    def __init__(self, fetcher: Fetcher | None = None) -> None:
        self._fetcher = fetcher or Fetcher()

    async def run(self, context: Context, arguments: WebSearchArguments) -> str:
        query = _query(arguments)
        if context.search is not None:
            return cut(await context.search(query), context.max_output_chars)
        if context.settings.search_url is not None:
            url = context.settings.search_url.replace("{query}", quote(query, safe=""))
            page = await self._fetcher.get(url, context.threads, trusted=True)
            found = await context.threads.run(results_of, page)
            return cut(found, context.max_output_chars)
        raise ToolError(
            "the web can't be searched here: the model's provider has no search of its own that is known, and no "
            "search_url is set in [agent]. Go on without, or fetch a page whose address you know"
        )


def _query(arguments: WebSearchArguments) -> str:
    """The query with the domains in it, in the way that all search engines know."""
    query = " ".join(arguments.query.split())
    if not query:
        raise ToolError("the query is empty: say what to search for")
    allowed = " OR ".join(f"site:{domain}" for domain in _domains(arguments.allowed_domains))
    blocked = [f"-site:{domain}" for domain in _domains(arguments.blocked_domains)]
    query = " ".join([query, *([f"({allowed})"] if " OR " in allowed else [allowed] if allowed else []), *blocked])
    if len(query) > MAX_QUERY_CHARS:
        raise ToolError(f"the query is longer than {MAX_QUERY_CHARS} characters: use fewer words")
    return query


def _domains(given: Domains) -> list[str]:
    return [word for domain in given if (word := "".join(domain.split()))]


def results_of(page: Page) -> str:
    """What an endpoint found: the results in its JSON, or the text of its page.  Call it in a thread."""
    found = text_of(page).text
    if not found.lstrip().startswith(("{", "[")):
        return found or "Nothing was found."
    try:
        answer = msgspec.json.decode(page.body)
    except BAD_JSON:
        return found
    results = next(_lists_in(answer, MAX_DEPTH), None)
    if results is None:
        return found
    return "\n\n".join(_line(result) for result in results[:MAX_RESULTS]) or "Nothing was found."


def _lists_in(value: Any, depth: int) -> Iterator[list[dict[str, Any]]]:
    """The lists of results: engines call them `results`, `organic`, `items`, and put them at different depths."""
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, dict) and _first(row, _URLS) and _first(row, _TITLES)]
        if rows:
            yield rows
    elif isinstance(value, dict) and depth:
        for name in ("results", "organic", "organic_results", "items", "web", "webPages", "value", "data"):
            if name in value:
                if value[name] == [] and name == "results":
                    yield []
                yield from _lists_in(value[name], depth - 1)


def _line(result: dict[str, Any]) -> str:
    lines = [_first(result, _TITLES), _first(result, _URLS), _first(result, _EXCERPTS)]
    return "\n".join(" ".join(line.split()) for line in lines if line)


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((value for name in names if isinstance(value := row.get(name), str) and value), "")
