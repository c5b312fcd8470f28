"""`GET /v1/models` and `/v1/models/{id}`: what can be asked for, in the caller's dialect."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from worker.addressing import check_model
from worker.asgi import HttpError, Request
from worker.auth import may_ask
from worker.dialects.fault import quoted
from worker.gateway import Gateway
from worker.models import display_name, public_models, resolve

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000


async def list_models(gateway: Gateway, request: Request) -> None:
    """All public names that the caller may ask for, as the configuration orders them; page by page for Anthropic's."""
    client = gateway.authenticator.client(request.client)
    models = {name: provider for name, provider in public_models(gateway.config).items() if may_ask(client, name)}
    if request.dialect == "openai":
        listed = [_openai_entry(name, provider) for name, provider in models.items()]
        await request.respond_json({"object": "list", "data": listed})
        return
    query = {name: values[-1] for name, values in parse_qs(request.scope["query_string"].decode("latin-1")).items()}
    page, has_more = page_of(list(models), query)
    await request.respond_json(
        {
            "data": [_anthropic_entry(gateway, name) for name in page],
            "has_more": has_more,
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
    )


async def get_model(gateway: Gateway, request: Request) -> None:
    """One model; anything that would be answered counts, listed or not."""
    name = request.path.partition("/models/")[2]
    check_model(gateway, request, name, request.dialect)
    targets = resolve(gateway.config, name)
    if not targets:
        subject = f"model: {name}" if request.dialect == "anthropic" else f"the model {quoted(name)}"
        raise HttpError(404, f"{subject} does not exist here", code="model_not_found", param="model")
    if request.dialect == "anthropic":
        await request.respond_json(_anthropic_entry(gateway, name))
    else:
        await request.respond_json(_openai_entry(name, targets[0].provider))


def page_of(names: Sequence[str], query: dict[str, str]) -> tuple[Sequence[str], bool]:
    """The page of `names` that `limit`, `after_id` and `before_id` ask for, and whether more lie beyond it."""
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MAX_LIMIT):
        raise HttpError(400, f"`limit`: a number from 1 to {MAX_LIMIT} is needed")
    for cursor in ("after_id", "before_id"):
        if cursor in query and query[cursor] not in names:
            raise HttpError(400, f"`{cursor}`: there is no model {quoted(query[cursor])}")
    start = names.index(query["after_id"]) + 1 if "after_id" in query else 0
    if "before_id" in query:
        before = names[start : names.index(query["before_id"])]
        return before[-int(limit) :], len(before) > int(limit)
    page = names[start : start + int(limit)]
    return page, start + len(page) < len(names)


# No provider tells when a model was made; the beginning of time is at least the same on every worker.


def _openai_entry(name: str, provider: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}


def _anthropic_entry(gateway: Gateway, name: str) -> dict[str, Any]:
    shown = display_name(gateway.config, name)
    return {"type": "model", "id": name, "display_name": shown, "created_at": "1970-01-01T00:00:00Z"}
