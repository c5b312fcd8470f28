import pytest

from shared.config import Config, Model, Provider
from worker.models import Target, display_name, known_names, public_models, resolve


def config(*models):
    return Config(providers={name: Provider(name=name) for name in ("fake", "other")}, models=models)


def model(name, provider="fake", **fields):
    return Model(name=name, provider=provider, **fields)


def test_an_exact_name_wins_over_globs_and_paths():
    found = config(
        model("*", "other"),
        model("fake/x", "other", model="exact"),
        model("kimi-k2", model="moonshot-k2"),
        model("kimi-*"),
    )
    assert resolve(found, "kimi-k2") == (Target("fake", "moonshot-k2"),)
    assert resolve(found, "fake/x") == (Target("other", "exact"),)


def test_a_provider_path_goes_upstream_as_it_is():
    found = config(model("*", "other"))
    assert resolve(found, "fake/tools") == (Target("fake", "tools"),)
    assert resolve(found, "fake/org/model") == (Target("fake", "org/model"),)
    assert resolve(found, "nobody/tools") == (Target("other", "nobody/tools"),)
    assert resolve(found, "fake/") == (Target("other", "fake/"),)
    assert resolve(config(), "nobody/tools") == ()


@pytest.mark.parametrize("backwards", [False, True])
def test_the_most_literal_glob_wins(backwards):
    models = [model("*"), model("claude-*"), model("claude-*-haiku*", "other"), model("c*")]
    found = config(*(reversed(models) if backwards else models))
    assert resolve(found, "claude-5-haiku-1")[0].provider == "other"
    assert resolve(found, "claude-5-opus") == (Target("fake", "claude-5-opus"),)


def test_the_default_is_last():
    found = config(model("default", "other"), model("claude-*"), model("a[12]", model="few"))
    assert resolve(found, "whatever") == (Target("other", "whatever"),)
    assert resolve(found, "a1") == (Target("fake", "few"),)
    assert resolve(found, "default") == (Target("other", "default"),)


def test_case_counts():
    assert resolve(config(model("Claude-*")), "claude-1") == ()


def test_nobody_has_it():
    assert resolve(config(), "x") == ()
    assert resolve(config(model("y")), "x") == ()


def test_fallbacks_in_their_order_and_without_loops():
    found = config(
        model("a", model="A", fallbacks=("b", "other/slow", "a", "fake/A", "nobody/x", "b", "missing")),
        model("b", "other", model="B", fallbacks=("a", "c")),
        model("c", model="C"),
    )
    assert resolve(found, "a") == (Target("fake", "A"), Target("other", "B"), Target("other", "slow"))
    assert resolve(found, "b") == (Target("other", "B"), Target("fake", "A"), Target("fake", "C"))


def test_a_glob_has_fallbacks_too():
    found = config(model("claude-*", model="text", fallbacks=("fake/slow",)))
    assert resolve(found, "claude-1") == (Target("fake", "text"), Target("fake", "slow"))


def test_public_models():
    found = config(model("claude-*", model="text"), model("kimi", model="k2"), model("plain"), model("default"))
    assert list(public_models(found)) == ["kimi", "plain", "default", "fake/text", "fake/k2"]


def test_globs_are_not_listed_and_aliases_are():
    found = config(model("claude-*", model="text"), model("claude-kimi", model="k2"))
    assert list(public_models(found)) == ["claude-kimi", "fake/text", "fake/k2"]


def test_a_model_is_shown_by_its_display_name_or_its_own():
    found = config(model("claude-kimi", model="k2", display_name="Kimi K2"), model("plain", display_name=""))
    assert display_name(found, "claude-kimi") == "Kimi K2"
    for name in ("plain", "fake/k2", "anything"):
        assert display_name(found, name) == name


def test_what_there_is_for_somebody_who_asked_for_something_else():
    assert known_names(config(model("a"), model("b*"))) == "a"
    assert known_names(config()) == "provider/model of fake, other"
