"""The columns of the table `streams`, in their order there.  `supervisor.schema` makes them."""

COLUMNS = (
    "id",
    "trace",
    "session",
    "worker",
    "provider",
    "upstream_model",
    "model",
    "asked_provider",
    "dialect",
    "streaming",
    "started",
    "first_byte",
    "duration",
    "prompt_tokens",
    "prompt_source",
    "completion_tokens",
    "completion_source",
    "counted_completion",
    "status",
    "error_type",
    "http_status",
    "retries",
    "cancel_latency",
    "cache_read",
    "cache_write",
    "cost",
    "client",
    "groups_only",
    "context_size",
)

FLAGS = frozenset({"streaming", "groups_only"})
"""0 or 1 in the table, false or true elsewhere."""
