"""Which entry's price, and size of the context, a target has."""

from shared.config import Config, Model, Price, Provider
from worker.models import resolve

CHEAP, DEAR, OTHER = Price(input=1.0), Price(input=10.0), Price(input=5.0)


def config(*models):
    return Config(providers={name: Provider(name=name) for name in ("fake", "other")}, models=models)


def model(name, provider="fake", **fields):
    return Model(name=name, provider=provider, **fields)


def prices(config, asked):
    return [target.price for target in resolve(config, asked)]


def test_the_entry_that_leads_there():
    found = config(model("a", model="x", price=CHEAP, max_context_size=1000), model("b", model="y", price=DEAR))
    [target] = resolve(found, "a")
    assert (target.price, target.context_size) == (CHEAP, 1000)
    assert prices(found, "b") == [DEAR]


def test_two_names_of_one_model_may_have_two_prices():
    found = config(model("a", model="x", price=CHEAP), model("b", model="x", price=DEAR))
    assert prices(found, "a") == [CHEAP]
    assert prices(found, "b") == [DEAR]


def test_a_fallback_has_its_own_price():
    found = config(
        model("a", model="x", price=CHEAP, fallbacks=("b", "other/z", "other/unknown")),
        model("b", "other", model="y", price=DEAR),
        model("c", "other", model="z", price=OTHER),
    )
    assert prices(found, "a") == [CHEAP, DEAR, OTHER, None]


def test_a_fallback_to_the_same_model_is_none_whatever_it_costs():
    found = config(model("a", model="x", price=CHEAP, fallbacks=("b", "fake/x")), model("b", model="x", price=DEAR))
    assert prices(found, "a") == [CHEAP]


def test_a_provider_path_has_the_price_of_an_entry_for_the_same():
    found = config(model("a", model="x", price=CHEAP, max_context_size=1000), model("plain", price=DEAR))
    [target] = resolve(found, "fake/x")
    assert (target.price, target.context_size) == (CHEAP, 1000)
    assert prices(found, "fake/plain") == [DEAR]
    assert prices(found, "fake/a") == [None]
    assert prices(found, "other/x") == [None]


def test_patterns_stand_for_what_they_pass_on():
    found = config(
        model("kimi-*", price=CHEAP), model("kimi-k2*", price=DEAR), model("gpt-*", model="one", price=OTHER)
    )
    assert prices(found, "kimi-k2-turbo") == [DEAR]
    assert prices(found, "fake/kimi-k2-turbo") == [DEAR]
    assert prices(found, "fake/kimi-1") == [CHEAP]
    assert prices(found, "fake/gpt-1") == [None]
    assert prices(found, "fake/one") == [OTHER]


def test_an_alias_without_a_price_has_that_of_its_model():
    found = config(model("claude-*", model="k2", max_context_size=50), model("k2", price=DEAR, max_context_size=100))
    [target] = resolve(found, "claude-1")
    assert (target.price, target.context_size) == (DEAR, 50)


def test_default_says_nothing_about_other_names():
    found = config(model("default", price=CHEAP))
    assert prices(found, "whatever") == [CHEAP]
    assert prices(found, "fake/whatever") == [None]


def test_no_price_at_all():
    assert prices(config(model("a")), "a") == [None]
    assert prices(config(), "fake/a") == [None]
