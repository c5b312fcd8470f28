"""The configuration: its types, and the way from a TOML text to them."""

from shared.config.types import (
    Agent,
    Auth,
    Config,
    Cors,
    Logging,
    Model,
    Price,
    Provider,
    RateLimit,
    Server,
    Sessions,
    Storage,
    Streaming,
)

__all__ = [
    "Agent",
    "Auth",
    "Config",
    "Cors",
    "Logging",
    "Model",
    "Price",
    "Provider",
    "RateLimit",
    "Server",
    "Sessions",
    "Storage",
    "Streaming",
]
