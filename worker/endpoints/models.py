"""`GET /v1/models` and `/v1/models/{id}`: what can be asked for."""

from typing import Any

from worker.asgi import HttpError, Request
from worker.gateway import Gateway
from worker.models import public_models, resolve


async def list_models(gateway: Gateway, request: Request) -> None:
    """All public names, in the order of the configuration."""
    models = [_entry(name, provider) for name, provider in public_models(gateway.config).items()]
    await request.respond_json({"object": "list", "data": models})


async def get_model(gateway: Gateway, request: Request) -> None:
    """One model; anything that would be answered counts, listed or not."""
    name = request.path.partition("/models/")[2]
    targets = resolve(gateway.config, name)
    if not targets:
        raise HttpError(404, f"the model {name!r} does not exist here", code="model_not_found", param="model")
    await request.respond_json(_entry(name, targets[0].provider))


def _entry(name: str, provider: str) -> dict[str, Any]:
    # No provider tells when a model was made; 0 is at least the same on every worker.
    return {"id": name, "object": "model", "created": 0, "owned_by": provider}
