"""Tables of a configuration are changed where they stand, and everything else stays as somebody wrote it."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.launcher.tables import set_table

KIMI = ("providers", "kimi")
TEXT = st.text('a"\\\n# é', max_size=4)


@pytest.mark.parametrize(
    ("before", "values", "after"),
    [
        ("", {"a": 1}, "# why\n[providers.kimi]\na = 1\n"),
        ("# x\n", {"a": 1}, "# x\n\n# why\n[providers.kimi]\na = 1\n"),
        ("b = 1", {"a": 1}, "b = 1\n\n# why\n[providers.kimi]\na = 1\n"),
        ("b = 1\r\n", {"a": 1}, "b = 1\r\n\r\n# why\r\n[providers.kimi]\r\na = 1\r\n"),
        ("[providers.kimi]", {"a": 1}, "[providers.kimi]\na = 1\n"),
        ("[providers.kimi] # k\na = 2 # two\n", {"a": 1}, "[providers.kimi] # k\na = 1 # two\n"),
        ("[providers.kimi]\na = 1\nb = 2\n", {"a": None}, "[providers.kimi]\nb = 2\n"),
        ("[providers.kimi]\na = 1\n", {"a": 1, "b": None}, "[providers.kimi]\na = 1\n"),
        ("[providers.kimi]\nb = 2\n\n# next\n[x]\n", {"a": 1}, "[providers.kimi]\na = 1\nb = 2\n\n# next\n[x]\n"),
        ("providers = {kimi = {b = 2}}\n", {"a": 1}, None),
        ("providers = {groq = {}}\n", {"a": 1}, "providers = {groq = {}, kimi = {a = 1}}\n"),
        ("[providers.kimi.t]\nc = 3\n", {"a": 1}, None),
        ("[providers]\nkimi.b = 2\n", {"a": 1}, None),
        ("[providers.groq]\n[server]\n[providers.kimi]\nb = 2\n", {"a": 1, "b": 3}, None),
    ],
)
def test_set(before, values, after):
    made = set_table(before, KIMI, values, "why")
    if after is not None:
        assert made == after
    there = tomllib.loads(before).get("providers", {}).get("kimi", {})
    wanted = {key: value for key, value in {**there, **values}.items() if value is not None}
    data = tomllib.loads(made)
    assert data["providers"].pop("kimi") == wanted
    others = tomllib.loads(before)
    others.setdefault("providers", {}).pop("kimi", None)
    assert data == others
    assert set_table(made, KIMI, values, "why") == made


def test_names_are_quoted():
    made = set_table("", ("models", 'a "b".*'), {"provider": "x"})
    assert tomllib.loads(made) == {"models": {'a "b".*': {"provider": "x"}}}


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | TEXT),
    st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers(0, 3) | TEXT),
)
def test_it_means_what_was_meant(there, values):
    before = set_table("# head\n[server]\nworkers = 1\n", KIMI, there)
    made = set_table(before, KIMI, values)
    wanted = {key: value for key, value in {**there, **values}.items() if value is not None}
    assert tomllib.loads(made) == {"server": {"workers": 1}, "providers": {"kimi": wanted}}
