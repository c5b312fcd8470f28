"""The models as clients see them: where a name leads (`shared.routing`), and what to ask for instead.  Pure."""

from shared.config import Client, Config
from shared.routing import Target, display_name, public_models, resolve
from worker.auth import may_ask

__all__ = ["Target", "display_name", "known_names", "public_models", "resolve"]


def known_names(config: Config, client: Client | None = None) -> str:
    """What `client` may ask for instead of a name that nobody has; for people to read."""
    names = ", ".join([name for name in public_models(config) if may_ask(client, name)][:20])
    if client is not None and client.models:
        return names or ", ".join(client.models)
    return names or "provider/model of " + ", ".join(config.providers)
