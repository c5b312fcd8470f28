"""The models that a provider says it has."""

import msgspec
from msgspec import Struct

from shared.config import Provider
from shared.errors import ControlError
from supervisor.cli.launcher.explain import explain_answer, request_headers
from supervisor.cli.launcher.inquire import Inquiry, inquire
from supervisor.cli.text import printable

TIMEOUT = 20.0


class _Model(Struct):
    id: str = ""
    name: str = ""


class _Models(Struct):
    data: list[_Model]


def upstream_models(provider: Provider, key: str | None, timeout: float = TIMEOUT) -> list[str]:
    """Their names, sorted; `ControlError` with the reason and the fix where there is no such list."""
    if provider.kind == "echo":
        return ["echo"]
    url = f"{provider.base_url}/models"
    # Anthropic's list comes in pages; OpenAI's takes no notice of the word.
    query = "?limit=1000" if provider.dialect == "anthropic" else ""
    asked = Inquiry(url=url + query, method="GET", headers=request_headers(provider, key))
    outcome = inquire(asked, timeout)
    if outcome.answer is None:
        assert outcome.failure is not None
        raise ControlError(f"{outcome.failure.problem}: {outcome.failure.fix}")
    answer = outcome.answer
    if answer.status in (404, 405):
        raise ControlError(
            f"{provider.name} has no list of its models at {url} ({answer.status}): see its documentation"
        )
    if answer.status != 200:
        verdict = explain_answer(provider, key, "any", answer.status, answer.headers, answer.body)
        raise ControlError(
            f"{verdict.problem or f'{provider.name} says {answer.status}'}: {verdict.fix or 'try again'}"
        )
    try:
        found = msgspec.json.decode(answer.body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ControlError(f"what {provider.name} has at {url} is no list of models: correct base_url") from error
    # Gemini says "models/gemini-…", and takes the name without that.
    names = {printable(model.id or model.name).removeprefix("models/") for model in found}
    return sorted(names - {""})
