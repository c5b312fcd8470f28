"""The environment of what a run starts: a list of what may pass, as nobody knows all names that hide a secret."""

from collections.abc import Mapping

from shared.logs import redacted

PASSES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "JAVA_HOME", "GOPATH", "GOROOT", "CARGO_HOME", "RUSTUP_HOME", "NVM_DIR"),
        *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    }
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Nobody is there to type, to turn a page or to look at colours.
SET = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0"}


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """What of `environment` a program may see.

    A value that looks like a key, or is an address with a password, stays here under any name.
    """
    passed = {
        name: value
        for name, value in environment.items()
        if (name in PASSES or name.startswith("LC_")) and redacted(value) == value and "@" not in value
    }
    return {"PATH": DEFAULT_PATH, **passed, **SET}
