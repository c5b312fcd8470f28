"""Keys in the text of a configuration: what was there stays as it was, to the byte."""

import tomllib

import pytest

from shared.clientkeys import fingerprint
from supervisor.cli.keytext import add_client, remove_client, remove_key, remove_line

VALUES = {"key": "sha256:" + "0" * 64, "models": ["a-*", 'with "quotes"'], "dashboard": False}
SECTION = (
    '[auth.clients.ci]\nkey = "sha256:' + "0" * 64 + '"\nmodels = ["a-*", "with \\"quotes\\""]\ndashboard = false\n'
)
LAYOUTS = {
    "a comment": "# only a comment\n",
    "sections": "[server]\nbind='x' # c\n\n"
    "[auth]\nkeys = [\n  'a', # first\n  'b',\n]\n\n# models\n[models.x]\nprovider='p'\n",
    "clients": "[auth.clients.one]\nkey='1'\n# two is old\n"
    "[auth.clients.two]\nkey='2'\n\n# the end\n[cors]\nmax_age=1\n",
    "dotted": "auth.keys=['a']\n",
    "dotted clients": "[auth]\nclients.one.key='1'\n\n[server]\nworkers=1\n",
    "out of order": "[auth.clients.one]\nkey='1'\n[server]\nworkers=1\n[auth]\nkeys=['z']\n",
    "a table of inline tables": "[auth.clients]\none={key='1'}\n",
    "empty": "[auth]\n\n[server]\nworkers = 1\n",
    "an odd line end": "[server]\nbind = '''\n[auth.clients.ci]\n''' # \u2028 no end\n",
}


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_a_client_is_added_at_the_end_and_leaves_no_trace(text):
    made = add_client(text, "ci", VALUES)
    assert made == f"{text}\n{SECTION}"
    assert remove_client(made, "ci") == text


def test_an_empty_text():
    assert add_client("", "ci", VALUES) == SECTION
    assert remove_client(SECTION, "ci") == ""


def test_without_a_last_line_end():
    assert add_client("[server]\nworkers=1", "ci", VALUES) == f"[server]\nworkers=1\n\n{SECTION}"


def test_line_ends_of_elsewhere():
    text = "[server]\r\nworkers=1\r\n"
    made = add_client(text, "ci", VALUES)
    assert made == text + ("\n" + SECTION).replace("\n", "\r\n")
    assert remove_client(made, "ci") == text


@pytest.mark.parametrize("text", ["auth = {keys=['a']} # c\n", "[auth]\nclients = {one={key='1'}} # c\n"])
def test_inline_tables(text):
    made = add_client(text, "ci", VALUES)
    assert tomllib.loads(made)["auth"]["clients"]["ci"] == VALUES
    assert "# c\n" in made
    gone = tomllib.loads(remove_client(made, "ci"))["auth"]
    before = tomllib.loads(text)["auth"]
    assert {key: value for key, value in gone.items() if value} == before


def test_one_in_the_middle_goes_and_comments_stay():
    text = LAYOUTS["clients"]
    assert remove_client(text, "two") == text.replace("[auth.clients.two]\nkey='2'\n", "")
    assert remove_client(text, "one") == text.replace("[auth.clients.one]\nkey='1'\n", "")
    text = (
        "[auth.clients.one]\nkey='1'\nmodels = [\n  'a',\n  '[auth.clients.two]',\n]\n\n[auth.clients.two]\nkey='2'\n"
    )
    assert remove_client(text, "one") == "\n[auth.clients.two]\nkey='2'\n"
    dotted = "[auth]\nclients.one.key='1'\nclients.one.dashboard=false\nclients.two.key='2'\n"
    assert remove_client(dotted, "one") == "[auth]\nclients.two.key='2'\n"


def test_one_that_is_in_two_places_goes_whole():
    text = "[auth]\nclients.one.key='1'\nclients.two.key='2'\nclients.one.dashboard=false\n"
    assert tomllib.loads(remove_client(text, "one")) == {"auth": {"clients": {"two": {"key": "2"}}}}


def test_keys_without_a_name():
    text = LAYOUTS["sections"]
    assert remove_key(text, fingerprint("a")) == text.replace("  'a', # first\n", "")
    assert tomllib.loads(remove_key("auth.keys=['a', 'b', 'a']", fingerprint("a"))) == {"auth": {"keys": ["b"]}}


def test_lines_of_a_keys_file():
    hashed = "sha256:" + "0A" * 32
    text = f"# mine\none\n\n  two  \n{hashed}\nno key\u2028 at all\n"
    assert remove_line(text, fingerprint("two")) == text.replace("  two  \n", "")
    assert remove_line(text, "0a" * 6) == text.replace(f"{hashed}\n", "")
