"""What `setup` shows of each provider to somebody who has to choose: speed, context, price, and where its keys are.

As published in November 2026; prices in US dollars per million tokens, without caching.  They change, so that they are
shown and nowhere counted with.  None, shown as "?": unknown, or different from model to model.

* Kimi: K2.6's list price ($0.16 for what is cached).  A Kimi Code plan is paid by the month and has keys of its own;
  its OpenAI-compatible address is for certain clients alone, the Anthropic one is for all.
* Gemini: 3.8 Flash, which `gemini-flash-latest` leads to, at half of its price until the end of 2026.
* Mistral: Large 3, December 2025.  SiliconFlow: December 2025.  Groq, Cerebras: gpt-oss-120b; Cerebras's context is
  65,536 on the free tier.
* NVIDIA: free for trying out, with 40 requests a minute; no price by the token.
* Speed: Groq's and Cerebras's own word; for the others the class that Artificial Analysis' medians of April 2026 put
  the maker's models into.
"""

from collections.abc import Iterable

from msgspec import Struct

from shared.config.presets import PRESETS
from shared.records import Dialect
from supervisor.cli.text import columns

OTHER = "other"
"""The answer that stands for a provider which is not in the list."""


class Offer(Struct, frozen=True, kw_only=True):
    """One provider with the model that is suggested."""

    title: str
    model: str
    tokens_per_second: int | None = None
    """About so many, of one answer."""
    context: int | None = None
    """Tokens."""
    price: tuple[float, float] | None = None
    """Of input and output."""
    paid: str = ""
    """In the place of the price, where it isn't by the token."""
    keys_at: str | None = None
    """Where a key is made; None: there are none."""
    key_prefixes: tuple[str, ...] = ()
    """What its keys begin with; empty: anything."""
    base_url: str | None = None
    """Only of those that are no preset, as the next two."""
    dialect: Dialect | None = None
    normalise: tuple[str, ...] = ()
    listed: bool = True


_KIMI = Offer(
    title="Kimi (Moonshot)",
    model=PRESETS["kimi"].default_model,
    tokens_per_second=40,
    context=262_144,
    price=(0.95, 4.00),
    keys_at="https://platform.moonshot.ai/console/api-keys",
    key_prefixes=("sk-",),
)

OFFERS: dict[str, Offer] = {
    "kimi": _KIMI,
    "kimi-code": Offer(
        title="Kimi Code plan",
        model="kimi-for-coding",
        tokens_per_second=40,
        context=262_144,
        paid="by the month",
        keys_at="https://www.kimi.com/code",
        key_prefixes=("sk-kimi-",),
        base_url="https://api.kimi.com/coding/v1",
        dialect="anthropic",
        normalise=("model",),
    ),
    "groq": Offer(
        title="Groq",
        model=PRESETS["groq"].default_model,
        tokens_per_second=500,
        context=131_072,
        price=(0.15, 0.60),
        keys_at="https://console.groq.com/keys",
        key_prefixes=("gsk_",),
    ),
    "cerebras": Offer(
        title="Cerebras",
        model=PRESETS["cerebras"].default_model,
        tokens_per_second=3000,
        context=131_072,
        price=(0.35, 0.75),
        keys_at="https://cloud.cerebras.ai",
        key_prefixes=("csk-",),
    ),
    "gemini": Offer(
        title="Gemini",
        model=PRESETS["gemini"].default_model,
        tokens_per_second=150,
        context=1_048_576,
        price=(0.75, 3.75),
        keys_at="https://aistudio.google.com/apikey",
        key_prefixes=("AIza", "AQ."),
    ),
    "mistral": Offer(
        title="Mistral",
        model=PRESETS["mistral"].default_model,
        tokens_per_second=100,
        context=262_144,
        price=(0.50, 1.50),
        keys_at="https://console.mistral.ai/api-keys",
    ),
    "nvidia": Offer(
        title="NVIDIA",
        model=PRESETS["nvidia"].default_model,
        context=131_072,
        paid="free trial",
        keys_at="https://build.nvidia.com",
        key_prefixes=("nvapi-",),
    ),
    "openrouter": Offer(
        title="OpenRouter",
        model=PRESETS["openrouter"].default_model,
        keys_at="https://openrouter.ai/keys",
        key_prefixes=("sk-or-",),
    ),
    "siliconflow": Offer(
        title="SiliconFlow",
        model=PRESETS["siliconflow"].default_model,
        tokens_per_second=50,
        context=163_840,
        price=(0.27, 0.42),
        keys_at="https://cloud.siliconflow.com/account/ak",
        key_prefixes=("sk-",),
    ),
    "openai": Offer(
        title="OpenAI",
        model=PRESETS["openai"].default_model,
        tokens_per_second=100,
        context=400_000,
        price=(0.25, 2.00),
        keys_at="https://platform.openai.com/api-keys",
        key_prefixes=("sk-",),
    ),
    "anthropic": Offer(
        title="Anthropic",
        model=PRESETS["anthropic"].default_model,
        tokens_per_second=50,
        context=200_000,
        price=(3.00, 15.00),
        keys_at="https://console.anthropic.com/settings/keys",
        key_prefixes=("sk-ant-",),
    ),
    # The same as `kimi`, for those who know it by this name.
    "moonshot": Offer(
        title="Moonshot",
        model=_KIMI.model,
        tokens_per_second=_KIMI.tokens_per_second,
        context=_KIMI.context,
        price=_KIMI.price,
        keys_at=_KIMI.keys_at,
        key_prefixes=_KIMI.key_prefixes,
        listed=False,
    ),
    "echo": Offer(title="echo", model=PRESETS["echo"].default_model, paid="built in"),
}
"""By the name of the provider in the configuration, in the order in which they are shown; `OTHER` comes last."""


def listed() -> list[str]:
    """The names that are shown."""
    return [name for name, offer in OFFERS.items() if offer.listed]


def describe(names: Iterable[str]) -> tuple[str, list[str]]:
    """A heading, and a line of the same columns for each of the providers; short enough for 80 columns, numbered."""
    heading = ("PROVIDER", "MODEL", "TOKENS/S", "CONTEXT", "$/M IN / OUT")
    rows = [heading, *(_row(name, OFFERS[name]) for name in names)]
    widths = [max(columns(row[column]) for row in rows) for column in range(len(heading))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines[0], lines[1:]


def _row(name: str, offer: Offer) -> tuple[str, ...]:
    speed = "?" if offer.tokens_per_second is None else f"about {offer.tokens_per_second}"
    context = "?" if offer.context is None else _rounded(offer.context)
    price = offer.paid or ("?" if offer.price is None else f"{offer.price[0]:.2f} / {offer.price[1]:.2f}")
    return (name, offer.model, *(("", "") if name == "echo" else (speed, context)), price)


def _rounded(tokens: int) -> str:
    """`256k` or `200k`, whichever thousand the maker means; `1M`."""
    if tokens >= 2**20:
        return f"{tokens >> 20}M"
    return f"{tokens // (1000 if tokens % 1000 == 0 else 1024)}k"
