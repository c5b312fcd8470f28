"""What the documents say is what the code has: keys, defaults, presets, commands, routes, events, columns, links."""

import ast
import json
import re
import sqlite3
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from msgspec import Struct, structs

from shared import events
from shared.config import (
    Client,
    Config,
    Model,
    Price,
    Provider,
    RateLimit,
    Tls,
    Translation,
    default_config,
    parse_config,
)
from shared.config.agent import TOOLS
from shared.config.presets import PRESETS
from shared.config.schema import File
from shared.history import parameters
from shared.history.queries import SUMS
from shared.records import CancelReason, Dialect, Status
from supervisor import schema as database
from supervisor.changes import BOUND_AT_BIRTH
from supervisor.cli import main
from supervisor.cli.launcher.environment import Models, claude_environment
from worker.agent.frames import FORMATS
from worker.agent.run import TIMED_OUT
from worker.agent.tools import BUILT_IN
from worker.agent.tools.own import load_own_tools
from worker.agent.tools.schema import schema_of
from worker.app import ROUTES
from worker.dialects.anthropic import errors as anthropic
from worker.dialects.openai import errors as openai
from worker.models import resolve

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
AGENT = (ROOT / "docs/agent.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
HISTORY = (ROOT / "docs/history.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
README = (ROOT / "README.md").read_text()

# What the examples' variables hold.
ENV = {"KIMI_PROXY_KEYS": "a-key"}
NAME = "<name>"

named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def sections(text: str, level: int = 2) -> dict[str, str]:
    """Heading, without backticks and brackets → what stands below it."""
    parts = re.split(rf"(?m)^{'#' * level} (.*)$", text)
    return {title.strip("`[]"): body for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def rows(text: str) -> list[list[str]]:
    """The cells of all Markdown tables, headers left out; a cell may hold `\\|`."""
    tables = re.findall(r"(?m)^\|[-| ]+\|\n((?:\|.*\n)+)", text + "\n")
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def code(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Configuration


def tables(kind: type[Struct], path: tuple[str, ...]) -> Iterator[tuple[str, set[str]]]:
    """Every table that a file may have, with its keys; a table with free names and simple values is a key."""
    keys = set()
    for field in structs.fields(kind):
        inner = struct_in(field.type)
        if inner is None:
            keys.add(field.name)
            continue
        below = (*path, field.name, NAME) if get_origin(field.type) is dict else (*path, field.name)
        if path:
            keys.add(field.name)
        yield from tables(inner, below)
    if path:
        yield ".".join(path), keys


def struct_in(kind: Any) -> type[Struct] | None:
    """The struct that a field holds, be it optional or by name."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind
    if get_origin(kind) in (dict, Union, UnionType):
        return next((found for argument in get_args(kind) if (found := struct_in(argument))), None)
    return None


def documented() -> dict[str, dict[str, list[str]]]:
    """Section → key → its row."""
    found = {}
    for title, body in sections(CONFIGURATION).items():
        keys = {code(row[0])[0]: row for row in rows(body) if len(row) == 5}
        if keys:
            found[title] = keys
    return found


def test_every_key_is_documented_and_no_other():
    assert {title: set(keys) for title, keys in documented().items()} == dict(tables(File, ()))


def defaults() -> dict[str, Any]:
    """Section → an object whose attributes are the defaults."""
    config = Config()
    provider = Provider(name="any")
    return {
        "server": config.server,
        "server.tls": Tls(cert="any", key="any"),
        "auth": config.auth,
        "auth.clients.<name>": Client(name="any", key="sha256:any"),
        "cors": config.cors,
        "proxy.retry": provider,
        "rate_limiting": config.rate_limiting,
        "providers.<name>": provider,
        "providers.<name>.translation": provider.translation,
        "models.<name>": Model(name="any", provider="any"),
        "models.<name>.price": Price(),
        "health": config.health,
        "sessions": config.sessions,
        "logging": config.logging,
        "storage": config.storage,
        "agent": config.agent,
        "agent.progress": config.agent.progress,
        "chatkit": config.chatkit,
    }


def limited() -> RateLimit:
    """A limit that has only its defaults."""
    limit = parse_config("[rate_limiting]\nenabled = true").config.providers["echo"].rate_limit
    assert limit is not None
    return limit


def default_of(section: str, key: str) -> Any:
    """The default; of a key that stands for another one's, that one's."""
    provider = Provider(name="any")
    match section, key:
        case "proxy", "stream_timeout":
            return provider.first_byte_timeout
        case "proxy", "retry_delay":
            return provider.backoff_base
        case "proxy", "max_retries":
            return provider.max_retries
        case "proxy.streaming", "chunk_timeout":
            return provider.chunk_timeout
        case "rate_limiting" | "rate_limiting.per_key", "requests_per_minute" | "burst_size":
            return getattr(limited(), key)
        case "proxy.streaming", _:
            return getattr(Config().streaming, key)
    return getattr(defaults()[section], key)


def said_defaults() -> list[tuple[str, str, Any]]:
    """Section, key and value of all defaults in the tables."""
    said = []
    for section, keys in documented().items():
        for key, row in keys.items():
            if row[2] not in ("—", "required", "the preset's"):
                said.append((section, key, tomllib.loads(f"value = {code(row[2])[0]}")["value"]))
    return said


@pytest.mark.parametrize(("section", "key", "said"), said_defaults(), ids=lambda value: str(value)[:20])
def test_defaults_are_the_code_s(section, key, said):
    default = default_of(section, key)
    assert said == (list(default) if isinstance(default, tuple) else default)


def test_what_a_reload_replaces_workers_for():
    # `[proxy.streaming] keep_alive_timeout` is another name of `[server]`'s.
    rolls = {(section, key) for section, keys in documented().items() for key, row in keys.items() if row[4] == "rolls"}
    assert rolls == {*(("server", key) for key in BOUND_AT_BIRTH), ("proxy.streaming", "keep_alive_timeout")}


def test_the_presets():
    said = {code(row[0])[0]: row for row in rows(sections(CONFIGURATION)["Presets"])}
    assert list(said) == list(PRESETS)
    for name, preset in PRESETS.items():
        _, dialect, base_url, keys, default_model, other = said[name]
        assert dialect == preset.dialect
        assert base_url.strip("`") == (preset.base_url or "built in")
        assert tuple(code(keys)) == preset.key_envs
        assert code(default_model) == [preset.default_model]
        wanted = {} if preset.ask_usage else {"ask_usage": False}
        if preset.first_byte_timeout is not None:
            wanted["first_byte_timeout"] = preset.first_byte_timeout
        assert tomllib.loads("\n".join(code(other))) == wanted


def test_what_the_presets_understand():
    said: dict[str, dict[str, Any]] = {name: {} for name in PRESETS}
    for names, values in (
        row for row in rows(sections(CONFIGURATION)["providers.<name>.translation"]) if len(row) == 2
    ):
        said |= dict.fromkeys(code(names), tomllib.loads("\n".join(code(values))))
    plain = structs.asdict(Translation())
    known = {name: structs.asdict(preset.translation) for name, preset in PRESETS.items()}
    assert said == {
        name: {key: value for key, value in values.items() if value != plain[key]} for name, values in known.items()
    }


def test_the_table_of_models():
    section = sections(CONFIGURATION)["Which model is meant"]
    (example,) = blocks(section, "toml")
    config = parse_config(example, None, ENV).config
    said = {code(asked)[0]: code(target)[0] for asked, target, _ in rows(section)}
    assert said == {
        asked: f"{target.provider}/{target.model}" for asked in said for target in resolve(config, asked)[:1]
    }


def toml_examples() -> list[tuple[str, str]]:
    return [(path.name, block) for path in DOCUMENTS for block in blocks(path.read_text(), "toml")]


@pytest.mark.parametrize(("where", "example"), toml_examples())
def test_examples_are_valid(where, example):
    parsed = parse_config(example, None, ENV)
    assert parsed.warnings == ()
    assert parsed.config != default_config(ENV)


# Commands, routes, events, columns


def test_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    there_are = set(re.findall(r"(?m)^    ([a-z-]+)(?:  | *$)", capsys.readouterr().out))
    said = [code(row[0])[0].removeprefix("kimi-proxy ") for row in rows(sections(README)["Commands"])]
    assert set(said) == there_are
    for command in said:
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0


def test_the_commands_that_are_mentioned_exist(capsys):
    mentioned = {name for path in DOCUMENTS for name in re.findall(r"kimi-proxy ([a-z][a-z-]+)`", path.read_text())}
    for command in mentioned:
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0, command


def test_the_routes():
    said = {
        re.sub(r"^[A-Z]+ ", "", path).replace("{id}", "")
        for row in rows(sections(README)["First request"])
        for path in code(row[0])
    }
    assert said == set(ROUTES)


def test_the_types_of_errors():
    said = rows((ROOT / "docs/errors.md").read_text())
    assert {status for status, *_ in said} >= {str(status) for status in anthropic.TYPES}
    for status, openai_s, anthropic_s, _ in said:
        assert code(openai_s) == [openai.error_type(int(status))]
        assert code(anthropic_s) == [anthropic.error_type(int(status))]


def logged_events() -> set[str]:
    """The names of all events that the code logs, and that of the line that tells of lost ones."""
    found = {"log_lines_dropped"}
    for package in ("shared", "supervisor", "worker"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("debug", "info", "warning", "error", "exception", "log")
                    and is_logger(node.func.value)
                ):
                    found.update(
                        argument.value
                        for argument in node.args[:2]
                        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                    )
    return found


def is_logger(node: ast.expr) -> bool:
    """`log`, `self._log` or `get_logger()`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "get_logger"
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_") == "log"


def test_the_events_of_the_log():
    said = [row for row in rows(sections(OPERATIONS)["The log"]) if len(row) == 4]
    assert {code(row[0])[0] for row in said} == logged_events()


def test_the_live_events():
    """Each has a section with the fields that it has beside `type` and `timestamp`."""
    said = {
        title: {name for row in rows(body) if len(row) == 3 for name in code(row[0])}
        for title, body in sections((ROOT / "docs/events.md").read_text(), 3).items()
    }
    there_are = {
        events.type_of(kind): {field.encode_name for field in structs.fields(kind)} - {"timestamp"}
        for kind in events.ALL
    }
    moving = {field.encode_name for field in structs.fields(events.Moving)}
    assert said == {**there_are, "progress": there_are["progress"] | {f"streams[].{name}" for name in moving}}


def test_the_columns_of_the_database():
    said = [code(row[0])[0] for row in rows(sections(OPERATIONS)["The database"])]
    assert tuple(said) == database.COLUMNS


def test_the_columns_of_conversations():
    said = [code(row[0])[0] for row in rows(sections(OPERATIONS)["Conversations"])]
    assert tuple(said) == database.CONVERSATION_COLUMNS


def test_the_tools_of_the_agent():
    said = code(documented()["agent"]["tools"][3])
    assert tuple(said[:-1]) == TOOLS == tuple(tool.name for tool in BUILT_IN)
    assert said[-1] == "tools_file"


def test_the_guide_of_the_agent():
    told = sections(AGENT)
    assert [code(row[0])[0] for row in rows(told["Tools"])] == [tool.name for tool in BUILT_IN]
    assert tuple(code(row[0])[0] for row in rows(told["Other formats"])) == FORMATS
    assert {name for row in rows(told["Cancellation"]) for name in code(row[2])} <= {*get_args(CancelReason), TIMED_OUT}
    types = {json.loads(code(row[0])[0])["type"] for row in rows(told["Events"])}
    assert types == {"status", "tool", "delta", "checkpoint", "done"}
    for tool, properties in ((tool, schema_of(tool.arguments)["properties"]) for tool in BUILT_IN):
        [takes] = [row[2] for row in rows(told["Tools"]) if code(row[0]) == [tool.name]]
        assert set(code(takes)) <= set(properties), tool.name


def test_the_tools_of_the_guide_can_be_loaded(tmp_path):
    (example,) = blocks(AGENT, "python")
    (tmp_path / "tools.py").write_text(example)
    assert [tool.name for tool in load_own_tools(str(tmp_path / "tools.py"))] == ["parcel", "Lines"]


def test_the_queries_run():
    connection = sqlite3.connect(":memory:")
    try:
        for step in database.MIGRATIONS:
            for statement in step:
                connection.execute(statement)
        (script,) = blocks(OPERATIONS, "sql")
        if sqlite3.sqlite_version_info < (3, 38):
            connection.create_function("unixepoch", 0, lambda: 0)
        for query in script.split(";"):
            connection.execute(query)
    finally:
        connection.close()


def test_the_parameters_of_the_history():
    said = {name: row[1] for row in rows(sections(HISTORY)["Parameters"]) for name in code(row[0])}
    takes = {"streams": parameters.LISTING, "stats": parameters.GROUPING, "export": parameters.EXPORT}
    known = {name: [route for route, names in takes.items() if name in names] for name in chain(*takes.values())}
    assert said == {name: "all" if name in parameters.FILTERS else ", ".join(routes) for name, routes in known.items()}


def test_the_values_of_the_history_s_parameters():
    said = {code(row[0])[0]: code(row[2]) for row in rows(sections(HISTORY)["Parameters"])}
    assert set(get_args(parameters.Property)) | set(get_args(parameters.Period)) == {*said["by"]} - {"limit"}
    assert said["status"] == list(get_args(Status))
    assert said["dialect"] == list(get_args(Dialect))
    assert said["format"] == list(get_args(parameters.Format))


def test_the_sums_of_the_history():
    assert [name for row in rows(sections(HISTORY)["Sums"]) for name in code(row[0])] == list(SUMS)


def test_the_variables_of_claude_code():
    models = Models(main="any", opus="any", sonnet="any", haiku="any", context_size=1)
    made = claude_environment({"HTTPS_PROXY": "any"}, "http://127.0.0.1:8000", None, models)
    said = rows(sections((ROOT / "docs/claude-code.md").read_text())["What launch does"])
    assert {name for row in said for name in code(row[0])} | {"HTTPS_PROXY"} == set(made)


# Links


@named
def test_links_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


@named
def test_files_that_are_named_exist(document):
    text = re.sub(r"(?ms)^```.*?^```", "", document.read_text())
    for block in code(text):
        for path in re.findall(r"(?:^| )((?:tests|worker|supervisor|shared|systemd|docs|bin)/[\w./-]*\w/?)", block):
            assert (ROOT / path).exists(), path


@named
def test_tests_that_are_named_exist(document):
    for path, word in re.findall(r"bin/test (tests/\S+\.py) -k (\w+)", document.read_text()):
        assert re.search(rf"(?m)^(async )?def test_\w*{word}", (ROOT / path).read_text()), word


def test_the_readme_has_room_for_the_benchmark():
    assert README.index("<!-- benchmark -->") < README.index("<!-- /benchmark -->")
