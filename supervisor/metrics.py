"""What is counted over the life of the service, whichever worker it happened in, and however often that was replaced.

The workers tell what happened, the supervisor counts: so no counter goes down before the supervisor ends.  Names are
those of OpenTelemetry's GenAI conventions where it has them, in Prometheus' spelling; the others are ours.
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from shared.config import Config
from shared.messages import Beat, Trouble
from shared.records import StreamRecord
from supervisor.exposition import Counter, Family, Histogram, Names, exposition
from supervisor.gauges import Gauges, Moment
from supervisor.recent import Recent

MAX_MODELS = 50
"""Names of models beside the configured ones: what falls under a glob, or is asked for as `provider/model`.

Each may have a histogram of its own for each provider and each way to fail.  With three providers and six ways that
makes some 4 MB of text, and 30 ms of the supervisor's time.
"""
MAX_ERROR_TYPES = 100

# The conventions' own bounds.
TOKEN_BOUNDS = tuple(4**n for n in range(14))
DURATION_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
# 0.05 and 0.5 are what is promised.
CANCEL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

CHAT = "chat"
"""`gen_ai.operation.name`: the one operation there is."""
GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class Metrics:
    """Told of every end, failure and beat; `render` says it all.  No clock, no I/O.

    `provider` is the one that answered last, as in the database; `model` is as the client asked.
    """

    def __init__(self, config: Config) -> None:
        self._models = Names(MAX_MODELS)
        self._error_types = Names(MAX_ERROR_TYPES)
        self._dropped: dict[int, int] = {}
        """By worker: what it said last about itself."""
        self.recent = Recent()
        self._token_usage = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a stream, whatever their source.",
            TOKEN_BOUNDS,
            (*GEN_AI, "gen_ai_token_type"),
        )
        self._duration = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "From a stream's admission to its end, attempts and waiting included.",
            DURATION_BOUNDS,
            (*GEN_AI, "error_type"),
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a stream's admission to its upstream's first byte; streamed answers only.",
            FIRST_TOKEN_BOUNDS,
            GEN_AI,
        )
        self._streams = Counter(
            "kimi_proxy_streams_total",
            "Streams that have ended.",
            ("provider", "model", "dialect", "status", "error_type"),
        )
        self._tokens = Counter(
            "kimi_proxy_tokens_total",
            "Tokens by where their count comes from: provider, counted or partial.",
            ("provider", "model", "type", "source"),
        )
        self._cached = Counter(
            "kimi_proxy_cache_tokens_total",
            "Of the input tokens, those that a provider read from its cache, or wrote to it.",
            ("provider", "model", "type"),
        )
        self._cost = Counter(
            "kimi_proxy_cost_dollars_total",
            "What streams cost, by the prices in the configuration.",
            ("provider", "model"),
        )
        self._retries = Counter(
            "kimi_proxy_retries_total",
            "Attempts after a stream's first one, fallbacks included.",
            ("provider", "model"),
        )
        self._cancel_latency = Histogram(
            "kimi_proxy_cancel_latency_seconds",
            "From the moment that a cancel was known to the upstream's connection being closed.",
            CANCEL_BOUNDS,
            ("reason",),
        )
        self._errors = Counter(
            "kimi_proxy_upstream_errors_total",
            "Failed attempts, those that another one made good included.",
            ("provider", "error_type", "http_status"),
        )
        self._progress_dropped = Counter(
            "kimi_proxy_progress_dropped_total", "Reports of progress that a worker's full pipe had no room for."
        )
        self._moment = Moment()
        self.configure(config)

    @property
    def families(self) -> tuple[Family, ...]:
        """Everything there is, in the order of the answer."""
        return (
            *(self._token_usage, self._duration, self._first_token),
            *(self._streams, self._tokens, self._cached, self._cost, self._retries),
            *(self._cancel_latency, self._errors, self._progress_dropped),
            *self._moment.families,
        )

    def configure(self, config: Config) -> None:
        """A reload: its public names are labels, and what has been counted stays."""
        self._configured = {model.name for model in config.models}

    def ended(self, record: StreamRecord) -> None:
        """A terminal record, one for each stream."""
        start, provider = record.start, record.provider
        model = self._model(start.model)
        error_type = self._error_types[record.error_type] if record.error_type else ""
        gen_ai = (CHAT, provider, model)
        self._streams.add((provider, model, start.dialect, record.status, error_type))
        self._duration.observe(record.duration, (*gen_ai, error_type))
        if record.first_byte is not None and start.streaming:
            self._first_token.observe(record.first_byte, gen_ai)
        for type, tokens in (("input", record.prompt), ("output", record.completion)):
            if tokens is not None:
                self._tokens.add((provider, model, type, tokens.source), tokens.count)
                self._token_usage.observe(tokens.count, (*gen_ai, type))
        if record.cache_read is not None:
            self._cached.add((provider, model, "read"), record.cache_read)
        if record.cache_write is not None:
            self._cached.add((provider, model, "write"), record.cache_write)
        if record.cost is not None:
            self._cost.add((provider, model), record.cost)
        if record.retries:
            self._retries.add((provider, model), record.retries)
        if record.cancel_latency is not None:
            self._cancel_latency.observe(record.cancel_latency, (error_type,))
        self.recent.ended(record)

    def trouble(self, trouble: Trouble) -> None:
        """A failed attempt."""
        status = "" if trouble.http_status is None else str(trouble.http_status)
        self._errors.add((trouble.provider, self._error_types[trouble.error_type], status))

    def beat(self, pid: int, beat: Beat) -> None:
        """What a worker has dropped since its own start."""
        self._progress_dropped.add((), beat.dropped - self._dropped.get(pid, 0))
        self._dropped[pid] = beat.dropped

    def left(self, pid: int) -> None:
        """A worker is gone: the next one with its pid, if ever, begins at nothing."""
        self._dropped.pop(pid, None)

    def render(self, gauges: Gauges) -> bytes:
        """All of it in Prometheus' text format; `gauges` is what others know of this moment."""
        self._moment.take(gauges)
        return exposition(self.families)

    def _model(self, name: str) -> str:
        return name if name in self._configured else self._models[name]
