"""The exception tree of the project.

    KimiProxyError
    ├── ConfigError         the configuration file, or a value in it, is wrong
    ├── StartError          the service can't start: port in use, unwritable folder, another instance
    ├── ControlError        the command line could not reach the service, or was refused by it
    ├── StorageError        the database can't be read or written now
    ├── UsageError          a command lacks an answer that only a flag, or a person at a terminal, can give
    ├── QueryError          a question about the history is wrong: a parameter of it, or its value
    ├── FrameError          bytes on a pipe are not a frame
    ├── DialectError        bytes from a client or an upstream break their protocol
    └── UpstreamError       an upstream could not be reached, or broke off
        ├── UpstreamConnectError   no connection: refused, DNS, TLS
        ├── UpstreamTimeout        silence for longer than a deadline
        └── UpstreamBroken         the connection ended inside a response

Foreign exceptions are mapped to these where they enter; the message is always a sentence a person can act on.
"""


class KimiProxyError(Exception):
    """The root: `str(error)` is one line, fit for stderr or a log."""


class ConfigError(KimiProxyError):
    """The configuration is wrong.  The message starts with `file:line:` where both are known."""


class StartError(KimiProxyError):
    """The service can't start; the message says why and what to do."""


class ControlError(KimiProxyError):
    """A command could not be carried out by the running service, or there is none."""


class StorageError(KimiProxyError):
    """The database can't be read or written.

    `passing`: it may be otherwise in a moment (disk full, locked); else somebody has to do something.
    `corrupt`: the file is damaged, or is no database.
    """

    def __init__(self, message: str, *, passing: bool = False, corrupt: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        self.corrupt = corrupt


class UsageError(KimiProxyError):
    """A command was called in a way that can't work; the message names the flag."""


class QueryError(KimiProxyError):
    """A question about the history can't be understood.  The message names the parameter and what it may be."""


class FrameError(KimiProxyError):
    """A pipe carried something that is not a frame, or one larger than the bound."""


class DialectError(KimiProxyError):
    """A peer broke the grammar of its dialect."""


class UpstreamError(KimiProxyError):
    """An upstream failed before or while it answered.

    `error_type` is the operators' word for it in log lines and records (httpx's class names).
    """

    error_type = "UpstreamError"

    def __init__(self, message: str, error_type: str | None = None) -> None:
        super().__init__(message)
        if error_type is not None:
            self.error_type = error_type


class UpstreamConnectError(UpstreamError):
    """No connection could be made."""

    error_type = "ConnectError"


class UpstreamTimeout(UpstreamError):
    """The upstream was silent for longer than a deadline allows."""

    error_type = "TimeoutException"


class UpstreamBroken(UpstreamError):
    """The connection ended, or stopped being HTTP, inside a response."""

    error_type = "ReadError"
