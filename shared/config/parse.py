"""From a TOML text to a `Config`: pure, complete, and with one sentence about the first thing that is wrong."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from shared.config import schema
from shared.config.agent import agent_warnings, resolve_agent, resolve_chatkit
from shared.config.auth import auth_warnings, resolve_auth
from shared.config.bind import is_loopback, parse_bind
from shared.config.document import Document
from shared.config.faults import key_name, table_name
from shared.config.limits import limit_warnings, resolve_limits
from shared.config.lines import Path
from shared.config.models import model_warnings, resolve_models
from shared.config.providers import beside, check_file_name, provider_warnings, resolve_providers
from shared.config.types import Config, Cors, HealthRules, Logging, Server, Sessions, Storage, Streaming, Tls
from shared.errors import ConfigError

_STREAMING_KEYS = ("buffer_size", "ping_interval", "early_ping", "max_event_bytes", "max_response_bytes")


class Parsed(Struct, frozen=True, kw_only=True):
    """A valid configuration, and what its text leaves to be done or said."""

    config: Config
    warnings: tuple[str, ...] = ()
    auth_keys_file: str | None = None
    """A file whose lines are client keys too; `shared.config.locate` reads it."""
    workspace_at: str = ""
    """`file:line: ` of the agent's folder, which `shared.config.locate` looks for…"""
    tools_file_at: str = ""
    """…and of the file with the user's own tools."""


def parse_config(text: str, source: str | None = None, env: Mapping[str, str] | None = None) -> Parsed:
    """The configuration that `text` means in the environment `env`, where keys for providers are looked for.

    `source` is the file's name: messages begin with it, and files named in `text` are relative to its folder.
    Raises `ConfigError`.
    """
    env = env or {}
    document = Document(text, source)
    file = document.file
    auth = resolve_auth(document, env)
    providers = resolve_providers(document, env)
    models = resolve_models(document, providers)
    config = Config(
        source=source,
        server=_server(document, guarded=auth.required or file.auth.keys_file is not None),
        auth=auth,
        cors=_cors(document),
        streaming=Streaming(
            **{key: value for key, value in file.proxy.streaming.given().items() if key in _STREAMING_KEYS}
        ),
        providers=providers,
        models=models,
        rate_limiting=resolve_limits(document),
        health=HealthRules(**file.health.given()),
        sessions=Sessions(**file.sessions.given()),
        logging=Logging(**file.logging.given()),
        storage=Storage(**file.storage.given()),
        agent=resolve_agent(document),
        chatkit=resolve_chatkit(document),
    )
    keys_file = file.auth.keys_file
    return Parsed(
        config=config,
        warnings=(
            *provider_warnings(document),
            *auth_warnings(document, models, providers),
            *limit_warnings(document),
            *model_warnings(document),
            *agent_warnings(document),
        ),
        workspace_at=document.where(("agent", "workspace")),
        tools_file_at=document.where(("agent", "tools_file")),
        auth_keys_file=keys_file and beside(source, keys_file),
    )


def default_config(env: Mapping[str, str]) -> Config:
    """What holds without any file: providers whose keys are in `env`, and `echo`."""
    return parse_config("", None, env).config


def _server(document: Document, *, guarded: bool) -> Server:
    section = document.file.server
    values = section.given(without=("bind", "tls"))
    keep_alive_timeout = document.file.proxy.streaming.keep_alive_timeout
    if keep_alive_timeout is not None:
        values.setdefault("keep_alive_timeout", keep_alive_timeout)
    if section.bind is not None:
        values["bind"] = _binds(document, section.bind, guarded=guarded)
    return Server(tls=None if section.tls is None else _tls(document, section.tls), **values)


def _tls(document: Document, section: schema.Tls) -> Tls:
    at: Path = ("server", "tls")
    check_file_name(document, (*at, "cert"), section.cert)
    check_file_name(document, (*at, "key"), section.key)
    cert, key = section.cert, section.key
    if cert is None or key is None:
        missing = "cert" if cert is None else "key"
        raise document.fault(at, f'{table_name(at)} has no {missing}: add {missing} = "the path of a file of PEM"')
    values = section.given(without=("cert", "key"))
    return Tls(cert=beside(document.source, cert), key=beside(document.source, key), **values)


def _binds(document: Document, value: str | list[str], *, guarded: bool) -> tuple[str, ...]:
    at: Path = ("server", "bind")
    texts = [value] if isinstance(value, str) else value
    if not texts:
        raise document.fault(at, f'{key_name(at)} is empty: name at least one address, as in ["127.0.0.1:8000"]')
    seen = set()
    for index, text in enumerate(texts):
        path = at if isinstance(value, str) else (*at, index)
        what = f'{key_name(path)} = "{text}"' if text.isprintable() else key_name(path)
        try:
            bind = parse_bind(text)
        except ConfigError as error:
            raise document.fault(path, f"{what} {error}") from None
        if bind in seen:
            raise document.fault(path, f"{what} stands there twice: remove one of them")
        seen.add(bind)
        if not guarded and not is_loopback(bind):
            raise document.fault(
                path,
                f"{what} can be reached from other machines, but there are no client keys: add [auth] with"
                ' keys = ["a long random string"], run `kimi-proxy key add NAME`, or bind 127.0.0.1',
            )
    return tuple(texts)


def _cors(document: Document) -> Cors:
    section = document.file.cors
    for index, origin in enumerate(section.origins):
        if origin != "*" and not _is_origin(origin):
            path = ("cors", "origins", index)
            raise document.fault(
                path, f'{key_name(path)} must be "*" or an origin without a path, as in "https://app.example.com"'
            )
    values = section.given(without=("origins",))
    return Cors(origins=tuple(section.origins), **values)


def _is_origin(text: str) -> bool:
    """RFC 6454 section 6.2: scheme, host and port, as a browser sends them."""
    try:
        parts = urlsplit(text)
        return bool(parts.scheme and parts.hostname) and parts.port != 0 and text == f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        return False
