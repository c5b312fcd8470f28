"""The configuration: its types, and the way from a TOML text to them."""

from shared.config.bind import Bind, InheritedFd, Tcp, Unix, is_loopback, is_loopback_host, parse_bind
from shared.config.locate import Loaded, find_config, load_config
from shared.config.parse import Parsed, default_config, parse_config
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
    Rule,
    Server,
    Sessions,
    Storage,
    Streaming,
    Translation,
)

__all__ = [
    "Agent",
    "Auth",
    "Bind",
    "Config",
    "Cors",
    "InheritedFd",
    "Loaded",
    "Logging",
    "Model",
    "Parsed",
    "Price",
    "Provider",
    "RateLimit",
    "Rule",
    "Server",
    "Sessions",
    "Storage",
    "Streaming",
    "Tcp",
    "Translation",
    "Unix",
    "default_config",
    "find_config",
    "is_loopback",
    "is_loopback_host",
    "load_config",
    "parse_bind",
    "parse_config",
]
