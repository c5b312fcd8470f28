"""A question to the gateway as Claude Code asks it: streamed, in Anthropic's dialect, to its legal end."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from shared import VERSION
from supervisor.cli.launcher.explain import ANTHROPIC_VERSION, quoted
from supervisor.cli.launcher.inquire import Answer, Inquiry, inquire

MAX_TOKENS = 16
_CERTIFICATE = (
    "Claude Code would refuse it, too: have a certificate for 127.0.0.1, with its file in SSL_CERT_FILE and"
    " NODE_EXTRA_CA_CERTS, or do without [server.tls] on this machine"
)
_LOGS = "kimi-proxy logs tells what happened"


class RoundTrip(Struct, frozen=True, kw_only=True):
    """What came of it: `problem` and `fix` are None where all is well, else a clause each."""

    seconds: float
    problem: str | None = None
    fix: str | None = None


def round_trip(url: str, key: str | None, model: str, timeout: float) -> RoundTrip:
    """Ask `model` of the gateway at `url` (`http://…`, `https://…` or `unix:/path`); `key` is a client's."""
    uds = url.removeprefix("unix:") if url.startswith("unix:") else None
    body = {
        "model": model,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "messages": [{"role": "user", "content": "Say OK."}],
    }
    asked = Inquiry(
        url=f"{'http://localhost' if uds else url}/v1/messages",
        headers={
            "content-type": "application/json",
            "anthropic-version": ANTHROPIC_VERSION,
            "user-agent": f"kimi-proxy-check/{VERSION}",
            **({"authorization": f"Bearer {key}"} if key is not None else {}),
        },
        body=json.dumps(body).encode(),
        direct=True,
        uds=uds,
    )
    outcome = inquire(asked, timeout)
    if outcome.answer is None:
        assert outcome.failure is not None
        way_out = _CERTIFICATE if outcome.failure.kind == "tls" else _LOGS
        return RoundTrip(seconds=outcome.seconds, problem=outcome.failure.problem, fix=way_out)
    problem, fix = judge(outcome.answer, key)
    return RoundTrip(seconds=outcome.seconds, problem=problem, fix=fix)


def judge(answer: Answer, key: str | None) -> tuple[str | None, str | None]:
    """What is wrong with the gateway's answer, and the fix; None for both where nothing is."""
    if answer.status != 200:
        said = quoted(answer.body, key)
        problem = f"the gateway answers {answer.status}{': ' if said else ''}{said}"
        match answer.status:
            case 401:
                return problem, "kimi-proxy launch makes a client key where [auth] asks for one; or: kimi-proxy key add"
            case 404:
                return problem, "kimi-proxy models shows what it has; kimi-proxy provider NAME leads claude-* somewhere"
            case 429:
                return problem, "wait a minute; [rate_limiting] in the configuration tells how many requests it takes"
        return problem, _LOGS
    kinds: list[str] = []
    for event in _events(answer.body):
        kinds.append(str(event.get("type")))
        if kinds[-1] == "error":
            said = quoted(msgspec.json.encode(event), key)
            return f"the answer broke off: {said or 'no reason was given'}", _LOGS
    if not kinds or kinds[0] != "message_start":
        return "what answers is no stream of messages: is it kimi-proxy?", _LOGS
    if kinds[-1] != "message_stop":
        return "the answer has no end", _LOGS
    return None, None


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                event = msgspec.json.decode(line[5:])
            except msgspec.DecodeError:
                return
            if isinstance(event, dict):
                yield event
