"""What a stream has cost.  Pure."""

from shared.config import Price

MILLION = 1_000_000


def cost_of(
    price: Price | None, prompt: int | None, completion: int | None, cache_read: int | None, cache_write: int | None
) -> float | None:
    """US dollars for so many tokens; None without a price.

    The prompt holds what was read from and written to a cache, which have prices of their own.  What is not known
    counts as nothing, as with a stream that never reached a provider.
    """
    if price is None:
        return None
    prompt = prompt or 0
    # A provider that tells more cached tokens than it told at all is not believed.
    read = min(cache_read or 0, prompt)
    written = min(cache_write or 0, prompt - read)
    read_price = price.input if price.cache_read is None else price.cache_read
    write_price = price.input if price.cache_write is None else price.cache_write
    dollars = (
        (prompt - read - written) * price.input
        + read * read_price
        + written * write_price
        + (completion or 0) * price.output
    )
    return dollars / MILLION
