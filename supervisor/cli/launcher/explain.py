"""What a provider's answer to a request of one token means: that all is well, or what is wrong, with the fix.  Pure."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from shared import VERSION
from shared.config import Provider
from shared.config.presets import PRESETS
from supervisor.cli.launcher.catalogue import OFFERS

Kind = Literal[
    "key", "quota", "model", "address", "request", "server", "dns", "connect", "tls", "proxy", "timeout", "broken"
]

ANTHROPIC_VERSION = "2023-06-01"
_MAX_QUOTE = 160
_TELLING = 6
"""Characters of a key."""
_KEY = re.compile(r"api[ _-]?key|authenti|unauthori[sz]ed|credential|access token", re.IGNORECASE)
_CREDIT = re.compile(r"credit|balance|billing|insufficient|payment|exceeded_current_quota", re.IGNORECASE)
_MODEL = re.compile(r"model", re.IGNORECASE)
# Those that reason say so where one token is too few for them to begin: key and model are right then.
_TOO_SHORT = re.compile(r"max_(completion_|output_)?tokens|output limit", re.IGNORECASE)


class Verdict(Struct, frozen=True, kw_only=True):
    """`problem` and `fix`: a clause each, without a full stop; None where all is well."""

    kind: Kind | None = None
    problem: str | None = None
    fix: str | None = None


FINE = Verdict()


def request_headers(provider: Provider, key: str | None) -> dict[str, str]:
    """As the service sends them (`worker.upstream.client`)."""
    headers = {
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"kimi-proxy/{VERSION}",
        "content-type": "application/json",
    }
    if provider.dialect == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
    if key is not None:
        headers |= {"x-api-key": key} if provider.dialect == "anthropic" else {"authorization": f"Bearer {key}"}
    return headers | {name.lower(): value for name, value in provider.headers.items()}


def request_body(provider: Provider, model: str) -> bytes:
    """A request for one token."""
    limit = "max_tokens" if provider.dialect == "anthropic" else provider.translation.max_tokens
    return msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": "Hi"}], limit: 1})


def request_url(provider: Provider) -> str:
    """Where it goes."""
    return provider.base_url + ("/messages" if provider.dialect == "anthropic" else "/chat/completions")


def explain_answer(
    provider: Provider, key: str | None, model: str, status: int, headers: Mapping[str, str], body: bytes
) -> Verdict:
    """What the answer means; it may quote the provider, but never the key."""
    said = quoted(body, key)
    quote = f": {said}" if said else ""
    text = body.decode("utf-8", "replace")
    who = provider.name
    match status:
        case 200:
            return FINE if _is_answer(body) else _no_answer(provider, headers)
        case 401:
            return _refused_key(provider, key, status, quote)
        case 402:
            return _no_credit(provider, status, quote)
        case 403:
            if key is None:
                return _refused_key(provider, key, status, quote)
            return Verdict(
                kind="key",
                problem=f"{who} does not let this key do that (403{quote})",
                fix=f"see what the key, the account and your country may use at {_page(provider)}, or give another"
                f" key: kimi-proxy set-key {who}",
            )
        case 404 if _MODEL.search(said):
            return _unknown_model(provider, model, status, quote)
        case 404 | 405:
            return Verdict(
                kind="address",
                problem=f"{who} has nothing at {request_url(provider)} ({status}{quote})",
                fix=f"correct base_url in [providers.{who}], or the model {model!r}",
            )
        case 429:
            if _CREDIT.search(text):
                return _no_credit(provider, status, quote)
            after = headers.get("retry-after", "")
            wait = f"wait {after} s" if after.isdecimal() else "wait a minute"
            return Verdict(
                kind="quota",
                problem=f"{who} has had enough requests of this key for now (429{quote})",
                fix=f"{wait} and try again; a paid plan at {_page(provider)} allows more",
            )
        case 400 | 422:
            return _refused_request(provider, key, model, status, quote, text)
        case _ if 300 <= status < 400:
            there = headers.get("location", "elsewhere")[:_MAX_QUOTE]
            return Verdict(
                kind="address",
                problem=f"{who} is not at {request_url(provider)}: that leads to {there} ({status})",
                fix=f"correct base_url in [providers.{who}]",
            )
        case _ if status >= 500 or status == 408:
            return Verdict(
                kind="server",
                problem=f"{who} has trouble of its own ({status}{quote})",
                fix="try again in a minute, or take another provider: kimi-proxy provider NAME",
            )
    return Verdict(
        kind="request",
        problem=f"{who} refuses the request ({status}{quote})",
        fix=f"see what it says at {_page(provider)}",
    )


def _refused_request(provider: Provider, key: str | None, model: str, status: int, quote: str, text: str) -> Verdict:
    # Gemini answers a wrong key, OpenRouter and Mistral an unknown model, Anthropic an empty account with 400.
    if _TOO_SHORT.search(text):
        return FINE
    if _CREDIT.search(text):
        return _no_credit(provider, status, quote)
    if _KEY.search(text):
        return _refused_key(provider, key, status, quote)
    if _MODEL.search(text):
        return _unknown_model(provider, model, status, quote)
    return Verdict(
        kind="request",
        problem=f"{provider.name} refuses the request ({status}{quote})",
        fix=f"see that [providers.{provider.name}] has the right dialect and base_url, and the model is {model!r}",
    )


def _refused_key(provider: Provider, key: str | None, status: int, quote: str) -> Verdict:
    who = provider.name
    if key is None:
        return Verdict(
            kind="key",
            problem=f"{who} wants a key, and none is set ({status}{quote})",
            fix=f"kimi-proxy set-key {who}",
        )
    fix = f"give the right key (from {_page(provider)}): kimi-proxy set-key {who}"
    preset = PRESETS.get(who)
    if who in ("kimi", "moonshot") and preset is not None and provider.base_url == preset.base_url:
        fix += (
            "; one of a Kimi Code plan is for: kimi-proxy setup --provider kimi-code; one from platform.moonshot.cn"
            ' needs base_url = "https://api.moonshot.cn/v1"'
        )
    return Verdict(kind="key", problem=f"{who} does not know this key ({status}{quote})", fix=fix)


def _no_credit(provider: Provider, status: int, quote: str) -> Verdict:
    return Verdict(
        kind="quota",
        problem=f"the account at {provider.name} has no credit left ({status}{quote})",
        fix=f"add credit at {_page(provider)}, or take another provider: kimi-proxy provider NAME",
    )


def _unknown_model(provider: Provider, model: str, status: int, quote: str) -> Verdict:
    return Verdict(
        kind="model",
        problem=f"{provider.name} has no model {model!r} for this key ({status}{quote})",
        fix=f"take one that it has: kimi-proxy models --upstream {provider.name}",
    )


def _no_answer(provider: Provider, headers: Mapping[str, str]) -> Verdict:
    kind = headers.get("content-type", "").partition(";")[0] or "nothing"
    return Verdict(
        kind="address",
        problem=f"what is at {request_url(provider)} answers, but not as a model does (200, {kind})",
        fix=f"correct base_url or dialect in [providers.{provider.name}]",
    )


def _page(provider: Provider) -> str:
    """Where its keys and its credit are looked after; of one that is not known, where it is."""
    offer = OFFERS.get(provider.name)
    if offer is not None and offer.keys_at is not None:
        return offer.keys_at
    return provider.base_url.partition("://")[2].partition("/")[0]


def _is_answer(body: bytes) -> bool:
    decoded = _decoded(body)
    return isinstance(decoded, dict) and ("choices" in decoded or "content" in decoded)


def quoted(body: bytes, key: str | None) -> str:
    """The provider's own sentence, short, on one line, without the key and without what would steer a terminal."""
    decoded: Any = _decoded(body)
    if isinstance(decoded, list) and decoded:  # Gemini
        decoded = decoded[0]
    found: Any = None
    if isinstance(decoded, dict):
        inner = decoded.get("error")
        found = inner.get("message") if isinstance(inner, dict) else inner
        found = found or decoded.get("message") or decoded.get("detail")
    if not isinstance(found, str):
        return ""
    words = "".join(char if char.isprintable() else " " for char in found).split()
    line = " ".join("…" if _tells(word, key) else word for word in words).rstrip(".")
    return line if len(line) <= _MAX_QUOTE else f"{line[: _MAX_QUOTE - 1]}…"


def _tells(word: str, key: str | None) -> bool:
    """Whether it has a part of the key in it: some providers repeat what they were given."""
    if key is None:
        return False
    return any(key[at : at + _TELLING] in word for at in range(max(1, len(key) - _TELLING + 1)))


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
