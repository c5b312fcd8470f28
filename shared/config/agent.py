"""From `[agent]` and `[chatkit]` to the agent's settings and ChatKit's."""

from collections.abc import Iterable
from string import Formatter
from typing import Any
from urllib.parse import urlsplit

from shared.config.document import Document
from shared.config.faults import hint, key_name
from shared.config.lines import Path
from shared.config.providers import beside, check_file_name, check_url, check_variable
from shared.config.types import Agent, ChatKit, Progress

TOOLS = (
    *("LS", "Read", "Write", "Edit", "MultiEdit", "Bash", "Glob", "Grep"),
    *("WebFetch", "WebSearch", "TodoWrite", "Task", "ExitPlanMode"),
)
"""The tools that are built in."""

_PLACEHOLDERS = {"thinking": ("step",), "executing": ("tools",), "tool": ("tool", "index", "of")}
_QUERY = "{query}"


def resolve_agent(document: Document) -> Agent:
    """The section's values over the defaults; that its folder and its file exist is for `shared.config.locate` to see.

    `workspace` and `tools_file` become relative to the configuration's folder, or keep the `~` that they begin with.
    """
    section = document.file.agent
    at: Path = ("agent",)
    values: dict[str, Any] = section.given(without=("tools", "timeouts", "progress"))
    for key in ("workspace", "tools_file"):
        if key in values:
            values[key] = _place(document, (*at, key), values[key])
    if section.enabled and section.workspace is None:
        raise document.fault(
            (*at, "enabled"),
            '[agent] enabled = true needs a workspace: add workspace = "/path/of/a/folder", all that its tools can see',
        )
    if section.search_url is not None:
        _check_search(document, (*at, "search_url"), section.search_url)
    _check_progress(document, (*at, "progress"), section.progress.given())
    return Agent(
        tools=_tools(document, (*at, "tools")),
        timeouts={**Agent().timeouts, **section.timeouts},
        progress=Progress(**section.progress.given()),
        **values,
    )


def resolve_chatkit(document: Document) -> ChatKit:
    """The section's values over the defaults."""
    section = document.file.chatkit
    at: Path = ("chatkit",)
    values = section.given()
    if section.workflow is not None and (not section.workflow or not section.workflow.isprintable()):
        raise document.fault((*at, "workflow"), f"{key_name((*at, 'workflow'))} must be the id of a workflow: wf_…")
    if section.base_url is not None:
        values["base_url"] = check_url(document, (*at, "base_url"), section.base_url)
    check_variable(document, (*at, "api_key_env"), section.api_key_env)
    check_file_name(document, (*at, "api_key_file"), section.api_key_file)
    if section.api_key_file is not None:
        if section.api_key_env is not None:
            raise document.fault(
                (*at, "api_key_file"), "[chatkit] has both api_key_env and api_key_file: keep one of them"
            )
        values["api_key_file"] = beside(document.source, section.api_key_file)
    # At another address than OpenAI's, such as a local stand-in, perhaps no key is needed.
    return ChatKit(api_key_optional=section.base_url is not None and section.api_key_env is None, **values)


def agent_warnings(document: Document) -> list[str]:
    """What is accepted but has no effect."""
    section = document.file.agent
    named: list[tuple[str, Path]] = [(name, ("agent", "tools", index)) for index, name in enumerate(section.tools)]
    named += [(name, ("agent", "timeouts", name)) for name in section.timeouts]
    warnings = [
        f"{document.where(path)}{key_name(path)} has no effect: "
        + hint(name, TOOLS, f"there is no tool of that name; there are {', '.join(TOOLS)}")
        for name, path in named
        if name not in TOOLS and section.tools_file is None  # which may hold tools of any name
    ]
    if section.execute_client_tools and not section.enabled:
        path = ("agent", "execute_client_tools")
        warnings.append(f"{document.where(path)}{key_name(path)} has no effect: the agent is off, add enabled = true")
    chatkit = document.file.chatkit
    if chatkit.workflow is None and chatkit.given():
        warnings.append(f"{document.where(('chatkit',))}[chatkit] has no effect: it names no workflow")
    return warnings


def _tools(document: Document, path: Path) -> tuple[str, ...]:
    """The named ones that there are.  None of them must not come to mean what none named does, which is all."""
    section = document.file.agent
    names = [name for name in section.tools if section.tools_file is not None or name in TOOLS]
    if section.tools and not names:
        fix = hint(section.tools[0], TOOLS, f"there are {', '.join(TOOLS)}")
        raise document.fault(path, f"{key_name(path)} names no tool that there is: {fix}")
    return tuple(dict.fromkeys(names))


def _place(document: Document, path: Path, name: str) -> str:
    if not name or not name.isprintable():
        raise document.fault(path, f"{key_name(path)} must be the path of a {_kind(path)}")
    first = name.partition("/")[0]
    if first == "~":
        return name
    if first.startswith("~"):
        raise document.fault(path, f"{key_name(path)} begins with somebody's ~: write the path of his folder in full")
    return beside(document.source, name)


def _kind(path: Path) -> str:
    return "folder" if path[-1] == "workspace" else "file"


def _check_search(document: Document, path: Path, url: str) -> None:
    """The value isn't repeated, as it may hold a key."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and _QUERY not in parts.netloc
    except ValueError:
        usable = False
    if not usable or url.count(_QUERY) != 1 or not url.isascii() or not url.isprintable() or " " in url:
        raise document.fault(
            path, f'{key_name(path)} must be an address with {_QUERY}, as in "https://search.example.com/?q={_QUERY}"'
        )


def _check_progress(document: Document, at: Path, words: dict[str, str]) -> None:
    for key, text in words.items():
        known = _PLACEHOLDERS[key]
        if not _is_template(text, known):
            path = (*at, key)
            names = " and ".join(f"{{{name}}}" for name in known)
            raise document.fault(
                path, f"{key_name(path)} can't be filled in: it may hold {names}; write {{{{ and }}}} for braces"
            )


def _is_template(text: str, known: Iterable[str]) -> bool:
    """Whether `str.format` can fill `text` in, with nothing but `known`."""
    try:
        fields = [(field, spec, conversion) for _, field, spec, conversion in Formatter().parse(text)]
    except ValueError:
        return False
    return all(field is None or (field in known and not spec and not conversion) for field, spec, conversion in fields)
