"""The shape of `config.toml`: what may stand in it, and within which bounds.

Every key is optional unless it has no default here.  `None` means "not set", so that `shared.config.parse` can tell
a value from its absence when it merges defaults, preset, `[proxy]` and `[providers.<name>]`.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from shared.config.types import Rule
from shared.records import Dialect

WEEK = 604_800
YEAR = 31_536_000

Wait = Annotated[float, Meta(gt=0, le=WEEK)]
"""A deadline in seconds; there is none that means "never"."""
Pause = Annotated[float, Meta(ge=0, le=WEEK)]
"""Seconds, 0 allowed."""
Bytes = Annotated[int, Meta(ge=1, le=2**32)]
Retries = Annotated[int, Meta(ge=0, le=20)]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
Dollars = Annotated[float, Meta(ge=0, le=1_000_000)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""

    def given(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """The keys that are set."""
        values = msgspec.structs.asdict(self)
        return {name: value for name, value in values.items() if value is not None and name not in without}


class Tls(Section, frozen=True):
    cert: str | None = None
    key: str | None = None
    http2: bool | None = None


class Server(Section, frozen=True):
    bind: str | list[str] | None = None
    workers: Annotated[int, Meta(ge=1, le=512)] | None = None
    graceful_timeout: Pause | None = None
    retire_timeout: Pause | None = None
    worker_timeout: Annotated[float, Meta(ge=1, le=WEEK)] | None = None
    """Workers beat once a second: less than that would kill healthy ones."""
    tcp_user_timeout: Pause | None = None
    keep_alive_timeout: Wait | None = None
    body_timeout: Wait | None = None
    send_timeout: Wait | None = None
    max_body_bytes: Bytes | None = None
    max_header_bytes: Annotated[int, Meta(ge=1024, le=2**24)] | None = None
    tls: Tls | None = None


class Client(Section, frozen=True):
    key: str
    models: list[str] | None = None
    requests_per_minute: Rate | None = None
    burst_size: Rate | None = None
    max_concurrent: Rate | None = None
    dashboard: bool = True


class Auth(Section, frozen=True):
    keys: list[str] = []
    keys_env: str | None = None
    """The variable that holds client keys, separated by commas or white space."""
    keys_file: str | None = None
    """A file with one client key a line."""
    clients: dict[str, Client] = {}


class Cors(Section, frozen=True):
    origins: list[str] = []
    max_age: Pause | None = None


class Retry(Section, frozen=True):
    max_retries: Retries | None = None
    backoff_base: Pause | None = None
    max_backoff: Pause | None = None


class ProxyStreaming(Section, frozen=True):
    buffer_size: Annotated[int, Meta(ge=1, le=2**24)] | None = None
    chunk_timeout: Wait | None = None
    keep_alive_timeout: Wait | None = None
    ping_interval: Pause | None = None
    early_ping: bool | None = None
    max_event_bytes: Bytes | None = None
    max_response_bytes: Bytes | None = None


class Proxy(Section, frozen=True):
    stream_timeout: Wait | None = None
    max_retries: Retries | None = None
    retry_delay: Pause | None = None
    timeouts: dict[str, Wait] = {}
    """Provider → seconds to the first byte; names that aren't configured are ignored."""
    retry: Retry = Retry()
    streaming: ProxyStreaming = ProxyStreaming()


class PerKey(Section, frozen=True):
    requests_per_minute: Rate | None = None
    burst_size: Rate | None = None
    max_concurrent: Rate | None = None


class RateLimiting(Section, frozen=True):
    enabled: bool | None = None
    requests_per_minute: Rate | None = None
    burst_size: Rate | None = None
    max_wait: Pause | None = None
    per_key: PerKey = PerKey()


class Translation(Section, frozen=True):
    thinking: Literal["off", "thinking", "effort", "reasoning"] | None = None
    replay_thinking: Literal["reasoning_content", "reasoning", "thinking", "off"] | None = None
    """Which of them a provider may have depends on its dialect."""
    needs_thinking: bool | None = None
    max_tokens: Literal["max_tokens", "max_completion_tokens"] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    documents: Literal["text", "file"] | None = None
    cache_control: bool | None = None
    output_format: Literal["json_schema", "json_object", "off"] | None = None
    partial: bool | None = None
    sampling: bool | None = None
    call_signatures: bool | None = None
    web_search: Literal["off", "builtin", "plugin", "tool"] | None = None
    """As `replay_thinking`."""


class Provider(Section, frozen=True):
    dialect: Dialect | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    api_key_keyring: bool | None = None
    connect_timeout: Wait | None = None
    first_byte_timeout: Wait | None = None
    chunk_timeout: Wait | None = None
    max_retries: Retries | None = None
    backoff_base: Pause | None = None
    max_backoff: Pause | None = None
    on_disconnect: Literal["cancel", "drain"] | None = None
    drain_timeout: Pause | None = None
    ask_usage: bool | None = None
    headers: dict[str, str] | None = None
    normalise: list[Rule] | None = None
    translation: Translation = Translation()
    requests_per_minute: Rate | None = None
    burst_size: Rate | None = None
    max_concurrent: Rate | None = None


class Price(Section, frozen=True):
    input: Dollars = 0.0
    output: Dollars = 0.0
    cache_read: Dollars | None = None
    cache_write: Dollars | None = None


class Model(Section, frozen=True):
    provider: str
    model: str | None = None
    display_name: str | None = None
    fallbacks: list[str] = []
    max_context_size: Annotated[int, Meta(ge=1, le=2**31)] | None = None
    price: Price | None = None


class Health(Section, frozen=True):
    window: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    max_errors: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    """The supervisor keeps more errors than that of each provider (`supervisor.health.MAX_KEPT`)."""
    circuit_breaker: bool | None = None
    open_time: Annotated[float, Meta(ge=1, le=86_400)] | None = None


class Sessions(Section, frozen=True):
    on_new_stream: Literal["cancel", "allow"] | None = None


class Logging(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] | None = None
    format: Literal["logfmt", "json"] | None = None


class Storage(Section, frozen=True):
    keep_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    max_buffered_records: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None


class Progress(Section, frozen=True):
    thinking: str | None = None
    executing: str | None = None
    tool: str | None = None


class Agent(Section, frozen=True):
    enabled: bool = False
    workspace: str | None = None
    model: str | None = None
    system: str | None = None
    max_iterations: Annotated[int, Meta(ge=1, le=1000)] | None = None
    max_depth: Annotated[int, Meta(ge=0, le=10)] | None = None
    response_timeout: Wait | None = None
    cancel_grace: Pause | None = None
    max_abandoned_threads: Annotated[int, Meta(ge=0, le=1000)] | None = None
    tools: list[str] = []
    tools_file: str | None = None
    tool_timeout: Wait | None = None
    timeouts: dict[str, Wait] = {}
    """Tool → seconds; names that no tool has are ignored."""
    max_output_chars: Annotated[int, Meta(ge=1000, le=10_000_000)] | None = None
    sandbox: Literal["auto", "required", "off"] | None = None
    allow_network: bool | None = None
    search_url: str | None = None
    execute_client_tools: bool | None = None
    progress: Progress = Progress()
    keep_conversations: Annotated[float, Meta(ge=0, le=YEAR)] | None = None
    max_conversation_bytes: Annotated[int, Meta(ge=1024, le=2**23)] | None = None
    """One is a frame on a worker's pipes, which holds 16 MiB (`shared.framing`)."""


class ChatKit(Section, frozen=True):
    workflow: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    base_url: str | None = None
    timeout: Wait | None = None


class File(Section, frozen=True):
    """The whole document."""

    server: Server = Server()
    auth: Auth = Auth()
    cors: Cors = Cors()
    proxy: Proxy = Proxy()
    rate_limiting: RateLimiting = RateLimiting()
    providers: dict[str, Provider] = {}
    models: dict[str, Model] = {}
    health: Health = Health()
    sessions: Sessions = Sessions()
    logging: Logging = Logging()
    storage: Storage = Storage()
    agent: Agent = Agent()
    chatkit: ChatKit = ChatKit()
