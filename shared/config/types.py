"""A configuration as the running parts use it: complete, validated, every default filled in.

`shared.config.parse` makes one from a TOML text; nothing else does.  It travels to the workers in `Configure`, so it
holds names of keys, never keys.  Durations are float seconds.
"""

from typing import Literal

from msgspec import Struct, field

from shared.clientkeys import fingerprint
from shared.records import Dialect


class Tls(Struct, frozen=True, kw_only=True):
    """HTTPS on all TCP sockets; files of PEM, absolute, read again at each reload."""

    cert: str
    """The certificate, and those between it and the root."""
    key: str
    http2: bool = True
    """Offer HTTP/2 by ALPN."""


class Server(Struct, frozen=True, kw_only=True):
    """The listening side."""

    bind: tuple[str, ...] = ("127.0.0.1:8000",)
    """`host:port`, `[v6]:port`, `unix:/path` or `fd://N`."""
    workers: int = 2
    graceful_timeout: float = 30.0
    """How long streams may go on after SIGTERM."""
    retire_timeout: float = 3600.0
    """How long they may go on in a worker that a reload replaces: no reload should ever cut one."""
    worker_timeout: float = 30.0
    """A worker whose loop has not beaten for this long is dumped, killed and replaced."""
    tcp_user_timeout: float = 60.0
    """TCP_USER_TIMEOUT of accepted connections: a peer that acknowledges nothing for this long is gone."""
    keep_alive_timeout: float = 60.0
    """How long an idle client connection is kept, and how long a request's head may take."""
    body_timeout: float = 60.0
    """How long a request's body may take to arrive."""
    send_timeout: float = 60.0
    """A client that takes nothing for this long is cut off."""
    max_body_bytes: int = 32 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    tls: Tls | None = None


class RateLimit(Struct, frozen=True, kw_only=True):
    """A bucket of `burst_size` requests that fills up at `requests_per_minute`."""

    requests_per_minute: int
    burst_size: int


class Client(Struct, frozen=True, kw_only=True):
    """One of those who have a key of their own."""

    name: str
    key: str
    """`sha256:<hex>`."""
    models: tuple[str, ...] = ()
    """Names or globs of what it may ask for, as it names them; empty: everything."""
    rate_limit: RateLimit | None = None
    """None: `[rate_limiting.per_key]`'s."""
    max_concurrent: int | None = None
    dashboard: bool = True
    """Whether it may see and cancel what others do: the dashboard, `/api/*`, `/metrics`, `/ws`."""

    @property
    def fingerprint(self) -> str:
        """What records and logs call its key."""
        return fingerprint(self.key)


class Auth(Struct, frozen=True):
    """Client keys, as they are or as `sha256:<hex>`; none means that everybody on loopback may ask."""

    keys: tuple[str, ...] = ()
    """Those without a name, which may do everything."""
    clients: tuple[Client, ...] = ()

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self.keys or self.clients)


class Cors(Struct, frozen=True, kw_only=True):
    """Which origins a browser page may ask from; none by default, `*` for any."""

    origins: tuple[str, ...] = ()
    max_age: float = 600.0


class Streaming(Struct, frozen=True, kw_only=True):
    """How bytes flow through a stream."""

    buffer_size: int = 65536
    """At most this many bytes per read from an upstream."""
    ping_interval: float = 15.0
    """Seconds of silence after which a client gets a keep-alive comment; 0 for never."""
    early_ping: bool = False
    """Commit 200 and ping before the upstream has answered."""
    max_event_bytes: int = 16 * 1024 * 1024
    max_response_bytes: int = 64 * 1024 * 1024
    """The largest non-streaming response that is relayed."""


class RateLimiting(Struct, frozen=True, kw_only=True):
    """What holds for all limits, and those of each client key; a provider's stand with it."""

    max_wait: float = 0.0
    """How long a stream waits for its turn before it is refused with 429."""
    per_key: RateLimit | None = None
    max_concurrent_per_key: int | None = None


class HealthRules(Struct, frozen=True, kw_only=True):
    """When a provider counts as degraded."""

    window: float = 60.0
    """Seconds that are looked back."""
    max_errors: int = 5
    """More than so many in the window."""
    circuit_breaker: bool = False
    """Whether a degraded provider is not asked at all for `open_time`, then by few streams."""
    open_time: float = 30.0


Rule = Literal["think", "tool_calls", "model"]
"""`think`: `<think>…</think>` in the text is thought.  `tool_calls`: Kimi's markers in the text are tool calls.

`model`: answers name the model as the client asked for it.
"""


class Translation(Struct, frozen=True, kw_only=True):
    """What a provider understands of a request that comes in the other dialect."""

    thinking: Literal["off", "thinking", "effort", "reasoning"] = "off"
    """How it is asked to think: not at all, by Kimi's `thinking`, `reasoning_effort`, or OpenRouter's `reasoning`."""
    replay_thinking: Literal["reasoning_content", "reasoning", "thinking", "off"] = "reasoning_content"
    """Where earlier thought goes.  Anthropic providers: `thinking`, unsigned thought too, or `off`, signed only."""
    needs_thinking: bool = False
    """Earlier tool calls must come with thought: a blank one stands in where the client has none."""
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_output_tokens: int | None = None
    """Larger wishes are cut to this."""
    documents: Literal["text", "file"] = "text"
    """Documents that are no text: named in the text, or as `file` parts."""
    cache_control: bool = False
    """Keep Anthropic's cache marks (OpenAI-compatible providers that know them)."""
    output_format: Literal["json_schema", "json_object", "off"] = "json_schema"
    partial: bool = False
    """An answer that the client has begun is marked with Kimi's `partial`."""
    sampling: bool = True
    """`temperature`, `top_p` and `top_k` go along; off for models that refuse all but their own."""
    call_signatures: bool = False
    """Earlier tool calls must come with the signature of a thought: a word that stands for any is sent (Gemini 3)."""
    web_search: Literal["off", "builtin", "plugin", "tool"] = "off"
    """Its own search: Kimi's built-in `$web_search`, OpenRouter's plug-in, Anthropic's `web_search_20250305`."""


class Provider(Struct, frozen=True, kw_only=True):
    """One upstream, its preset and the file's overrides already merged."""

    name: str
    kind: Literal["http", "echo"] = "http"
    dialect: Dialect = "openai"
    base_url: str = ""
    """Without a trailing slash; the dialect's path (`/chat/completions`, `/messages`) is appended."""
    api_key_env: str | None = None
    api_key_file: str | None = None
    """Joined with the folder of the configuration."""
    api_key_keyring: bool = False
    """Its key is in the user's keyring."""
    api_key_optional: bool = False
    """Nobody asked for `api_key_env` by name and the address isn't the preset's: without a key none is sent."""
    connect_timeout: float = 10.0
    first_byte_timeout: float = 120.0
    chunk_timeout: float = 30.0
    max_retries: int = 2
    backoff_base: float = 1.0
    max_backoff: float = 4.0
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    drain_timeout: float = 30.0
    """With `on_disconnect = "drain"`: how long the upstream is read after the client left."""
    ask_usage: bool = True
    """Ask for `stream_options.include_usage`; off for the few that refuse the field."""
    headers: dict[str, str] = {}
    """Sent with every request, for the few that want one of their own."""
    normalise: tuple[Rule, ...] = ()
    """What this provider's answers hold inside their text that belongs elsewhere, or call by another name."""
    translation: Translation = Translation()
    rate_limit: RateLimit | None = None
    max_concurrent: int | None = None
    """How many streams it is asked for at once."""


class Price(Struct, frozen=True, kw_only=True):
    """US dollars per million tokens."""

    input: float = 0.0
    output: float = 0.0
    cache_read: float | None = None
    cache_write: float | None = None


class Model(Struct, frozen=True, kw_only=True):
    """A public name or glob, and where it leads."""

    name: str
    provider: str
    model: str | None = None
    """The upstream's name for it; None: the name as the client gave it."""
    display_name: str | None = None
    """For lists that people choose from."""
    fallbacks: tuple[str, ...] = ()
    """`provider/model` or public names, tried in order before the first byte."""
    max_context_size: int | None = None
    price: Price | None = None


class Sessions(Struct, frozen=True):
    on_new_stream: Literal["cancel", "allow"] = "cancel"


class Logging(Struct, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["logfmt", "json"] = "logfmt"


class Storage(Struct, frozen=True, kw_only=True):
    keep_days: int = 30
    max_buffered_records: int = 100_000
    """How many records wait in memory while the database can't be written."""


class Progress(Struct, frozen=True, kw_only=True):
    """What the leading text block of a run says that was asked for as `/v1/messages`; "" says nothing."""

    thinking: str = "Thinking (step {step})…"
    executing: str = "Executing {tools}…"
    tool: str = "{tool} ({index}/{of})…"


class Agent(Struct, frozen=True, kw_only=True):
    """The agent: off unless `enabled`.  Durations in seconds."""

    enabled: bool = False
    workspace: str = ""
    """If it is enabled, an absolute path without symbolic links; nothing outside is ever touched."""
    model: str = "default"
    """Whom a run asks that names no model."""
    system: str = ""
    """Put before the agent's own instructions."""
    max_iterations: int = 15
    """Turns of the model in one run."""
    max_depth: int = 2
    """How deep runs may be nested by `Task`."""
    response_timeout: float = 120.0
    """For a whole run."""
    cancel_grace: float = 0.5
    """How long what a run has started may take to end after a cancel, before it is killed."""
    max_abandoned_threads: int = 8
    """A worker with more threads that can't be interrupted is replaced."""
    tools: tuple[str, ...] = ()
    """The names of those that may be used; empty: all."""
    tools_file: str | None = None
    """A Python file, absolute, with tools of the user's own."""
    tool_timeout: float = 60.0
    timeouts: dict[str, float] = field(default_factory=lambda: {"Bash": 30.0, "Read": 5.0, "LS": 3.0})
    """Tool → its own timeout; the others have `tool_timeout`."""
    max_output_chars: int = 30_000
    """Of one tool's result; what is more is cut out of its middle, with a mark."""
    sandbox: Literal["auto", "required", "off"] = "auto"
    """Whether Bash runs in bubblewrap."""
    allow_network: bool = False
    """…and whether it has the network there."""
    search_url: str | None = None
    """Where WebSearch asks (`{query}` in it), if the provider has no search of its own."""
    execute_client_tools: bool = False
    progress: Progress = Progress()
    keep_conversations: float = 86_400.0
    """After a session's last run its conversation is kept so long."""
    max_conversation_bytes: int = 1024 * 1024
    """The oldest turns of a longer one are left out."""


class ChatKit(Struct, frozen=True, kw_only=True):
    """Sessions of ChatKit at OpenAI; None in `workflow`: not offered."""

    workflow: str | None = None
    base_url: str = "https://api.openai.com/v1"
    """Without a trailing slash; `/chatkit/sessions` is appended."""
    api_key_env: str = "OPENAI_API_KEY"
    api_key_file: str | None = None
    """Joined with the folder of the configuration; goes before `api_key_env`."""
    api_key_optional: bool = False
    """Nobody asked for `api_key_env` by name and the address isn't OpenAI's: without a key none is sent."""
    timeout: float = 30.0


class Config(Struct, frozen=True, kw_only=True):
    """All of it.  `source` is the file it was read from, or None for the built-in one."""

    source: str | None = None
    server: Server = Server()
    auth: Auth = Auth()
    cors: Cors = Cors()
    streaming: Streaming = Streaming()
    providers: dict[str, Provider] = {}
    models: tuple[Model, ...] = ()
    """In the order of the file."""
    rate_limiting: RateLimiting = RateLimiting()
    health: HealthRules = HealthRules()
    sessions: Sessions = Sessions()
    logging: Logging = Logging()
    storage: Storage = Storage()
    agent: Agent = Agent()
    chatkit: ChatKit = ChatKit()
