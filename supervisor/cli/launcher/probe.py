"""One request of one token to a provider: whether its address, the key and the model are right, and if not, what is.

    found = probe(provider, key, "kimi-k2.6")
    print("fine" if found.ok else f"{found.problem}: {found.fix}")

It goes the way that the service's own requests go: its headers, its trust store, the proxies of the environment.
"""

from msgspec import Struct

from shared.config import Provider
from supervisor.cli.launcher.explain import Kind, explain_answer, request_body, request_headers, request_url
from supervisor.cli.launcher.inquire import Inquiry, Step, inquire

TIMEOUT = 20.0
"""Seconds; a model that has to be loaded first takes its time."""


class Probe(Struct, frozen=True, kw_only=True):
    """What came of it.  `problem` and `fix` are None where all is well, else a clause each, without a full stop."""

    ok: bool
    seconds: float
    problem: str | None = None
    fix: str | None = None
    kind: Kind | None = None
    """Of the problem: `key` and `model` are for the user to answer anew."""
    status: int | None = None
    """Of HTTP, if there was an answer."""
    passed: tuple[Step, ...] = ()
    """How far it came."""


def probe(provider: Provider, key: str | None, model: str, timeout: float = TIMEOUT) -> Probe:
    """Ask `provider` for one token of `model`, within `timeout` seconds in all.

    Blocks.  Nothing is raised but `KeyboardInterrupt`, and the key is in none of the texts.
    """
    if provider.kind == "echo":
        return Probe(ok=True, seconds=0.0)
    asked = Inquiry(
        url=request_url(provider), headers=request_headers(provider, key), body=request_body(provider, model)
    )
    outcome = inquire(asked, timeout)
    if outcome.answer is None:
        failure = outcome.failure
        assert failure is not None
        return Probe(
            ok=False,
            seconds=outcome.seconds,
            problem=failure.problem,
            fix=failure.fix,
            kind=failure.kind,
            passed=outcome.passed,
        )
    answer = outcome.answer
    verdict = explain_answer(provider, key, model, answer.status, answer.headers, answer.body)
    return Probe(
        ok=verdict.problem is None,
        seconds=outcome.seconds,
        problem=verdict.problem,
        fix=verdict.fix,
        kind=verdict.kind,
        status=answer.status,
        passed=outcome.passed,
    )
