"""`shared.config.agent`: what `[agent]` and `[chatkit]` mean, and what is said about bad ones."""

import re

import pytest

from shared.config import Agent, ChatKit, Progress, parse_config
from shared.config.agent import TOOLS
from shared.errors import ConfigError

ON = '[agent]\nenabled = true\nworkspace = "/srv/work"\n'
ALL = """
[agent]
enabled = true
workspace = "work"
model = "kimi/kimi-k2.6"
system = "Be brief."
max_iterations = 5
max_depth = 0
response_timeout = 60
cancel_grace = 0.25
max_abandoned_threads = 3
tools = ["Read", "mine", "Read"]
tools_file = "tools.py"
tool_timeout = 20
max_output_chars = 5000
sandbox = "required"
allow_network = true
search_url = "http://127.0.0.1:8080/search?q={query}&format=json"
execute_client_tools = true
keep_conversations = 0
max_conversation_bytes = 2048
[agent.timeouts]
Bash = 10
mine = 2
[agent.progress]
thinking = ""
tool = "{tool} {{{index}/{of}}}"
"""


def agent_of(text):
    return parse_config(text, "/etc/kimi-proxy/config.toml").config.agent


def refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "config.toml")
    return str(caught.value)


def test_without_a_section_there_is_no_agent():
    parsed = parse_config("")
    assert parsed.config.agent == Agent()
    assert not parsed.config.agent.enabled
    assert parsed.config.chatkit == ChatKit()


def test_all_keys():
    parsed = parse_config(ALL, "/etc/kimi-proxy/config.toml")
    assert parsed.warnings == ()
    assert parsed.config.agent == Agent(
        enabled=True,
        workspace="/etc/kimi-proxy/work",
        model="kimi/kimi-k2.6",
        system="Be brief.",
        max_iterations=5,
        max_depth=0,
        response_timeout=60.0,
        cancel_grace=0.25,
        max_abandoned_threads=3,
        tools=("Read", "mine"),
        tools_file="/etc/kimi-proxy/tools.py",
        tool_timeout=20.0,
        timeouts={"Bash": 10.0, "Read": 5.0, "LS": 3.0, "mine": 2.0},
        max_output_chars=5000,
        sandbox="required",
        allow_network=True,
        search_url="http://127.0.0.1:8080/search?q={query}&format=json",
        execute_client_tools=True,
        progress=Progress(thinking="", tool="{tool} {{{index}/{of}}}"),
        keep_conversations=0.0,
        max_conversation_bytes=2048,
    )
    assert (parsed.workspace_at, parsed.tools_file_at) == (
        "/etc/kimi-proxy/config.toml:4: ",
        "/etc/kimi-proxy/config.toml:13: ",
    )


@pytest.mark.parametrize(
    ("given", "path"),
    [("/srv/work", "/srv/work"), ("a/../b", "/etc/kimi-proxy/a/../b"), ("~", "~"), ("~/work", "~/work")],
)
def test_the_workspace_is_relative_to_the_file_or_to_the_home(given, path):
    assert agent_of(f"[agent]\nworkspace = '{given}'").workspace == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[agent]\nenabled = true", r":2: \[agent\] enabled = true needs a workspace: add workspace = "),
        ("[agent]\nenabled = 'yes'", r":2: \[agent\] enabled must be true or false"),
        ("[agent]\nworkspace = ''", r":2: \[agent\] workspace must be the path of a folder"),
        ("[agent]\nworkspace = 'a\\u0000b'".replace("'", '"'), r":2: \[agent\] workspace must be the path of a folder"),
        ("[agent]\nworkspace = '~ann/work'", r":2: \[agent\] workspace begins with somebody's ~: write the path"),
        ("[agent]\ntools_file = ''", r":2: \[agent\] tools_file must be the path of a file"),
        ("[agent]\nsandbox = 'requird'", r':2: \[agent\] sandbox must be .*: did you mean "required"\?'),
        ("[agent]\nsandbox = true", r':2: \[agent\] sandbox = true must be "auto" or "off" or "required"'),
        ("[agent]\nmax_iteration = 1", r':2: \[agent\] has no key "max_iteration": did you mean "max_iterations"\?'),
        ("[agent]\nmax_iterations = 0", r":2: \[agent\] max_iterations = 0 must be a whole number from 1 to 1000"),
        ("[agent]\nmax_depth = 11", r":2: \[agent\] max_depth = 11 must be a whole number from 0 to 10"),
        ("[agent]\nresponse_timeout = 0", r":2: \[agent\] response_timeout = 0 must be a number over 0"),
        ("[agent]\ntools = 'Bash'", r":2: \[agent\] tools must be a list of strings"),
        ("[agent]\ntools = ['bsh']", r':2: \[agent\] tools names no tool that there is: did you mean "Bash"\?'),
        ("[agent]\ntools = ['zzz']", r":2: \[agent\] tools names no tool that there is: there are LS, Read, "),
        ("[agent.timeouts]\nBash = 0", r":2: \[agent.timeouts\] Bash = 0 must be a number over 0"),
        ("[agent]\nmax_conversation_bytes = 16777216", r":2: .* must be a whole number from 1024 to 8388608"),
        ("[agent]\nsearch_url = 'https://s.example/'", r":2: \[agent\] search_url must be an address with \{query\}"),
        ("[agent]\nsearch_url = 'ftp://s.example/{query}'", r":2: \[agent\] search_url must be"),
        ("[agent]\nsearch_url = 'https://{query}.example/'", r":2: \[agent\] search_url must be"),
        ("[agent]\nsearch_url = 'https://[/{query}'", r":2: \[agent\] search_url must be"),
        ("[agent]\nsearch_url = 'https://s.example/{query}?q={query}'", r":2: \[agent\] search_url must be"),
        (
            "[agent.progress]\nthinking = '{stop}'",
            r":2: \[agent.progress\] thinking can't be filled in: it may hold \{step\}; write \{\{ and \}\} for braces",
        ),
        ("[agent.progress]\nexecuting = '{tools'", r":2: \[agent.progress\] executing can't be filled in"),
        ("[agent.progress]\nexecuting = '{}'", r":2: \[agent.progress\] executing can't be filled in"),
        ("[agent.progress]\ntool = '{index:>{of}}'", r":2: .* it may hold \{tool\} and \{index\} and \{of\}"),
        ("[agent.progress]\ntool = '{tool.__class__}'", r":2: \[agent.progress\] tool can't be filled in"),
        (ON + "[server]\nbind = '0.0.0.0:80'", r":5: \[server\] bind .* add \[auth\]"),
        ("[chatkit]\nworkflow = ''", r":2: \[chatkit\] workflow must be the id of a workflow"),
        ("[chatkit]\nworkflo = 'wf_1'", r':2: \[chatkit\] has no key "workflo": did you mean "workflow"\?'),
        ("[chatkit]\nbase_url = 'ftp://h'", r":2: \[chatkit\] base_url must be an address"),
        ("[chatkit]\napi_key_env = 'sk-secret'", r":2: \[chatkit\] api_key_env must be the name of an environment"),
        ("[chatkit]\napi_key_file = ''", r":2: \[chatkit\] api_key_file must be the path of a file"),
        ("[chatkit]\napi_key_env = 'A'\napi_key_file = 'b'", r":3: \[chatkit\] has both api_key_env and api_key_file"),
        ("[chatkit]\ntimeout = 0", r":2: \[chatkit\] timeout = 0 must be a number over 0"),
    ],
)
def test_refuses_with_file_line_key_and_fix(text, expected):
    message = refused(text)
    assert re.match("config.toml" + expected, message), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    ["[agent]\nsearch_url = 'hush-hush'", "[chatkit]\napi_key_env = 'hush-hush'", "[chatkit]\nbase_url = 'hush-hush'"],
)
def test_messages_never_hold_what_may_be_a_secret(text):
    assert "hush" not in refused(text)


def test_guarded_by_keys_it_may_be_reached_from_elsewhere():
    assert agent_of(ON + "[server]\nbind = '0.0.0.0:80'\n[auth]\nkeys = ['k']").enabled


def test_tools_that_do_not_exist_are_warned_about():
    text = "[agent]\ntools = ['Read',\n'Bsh']\n[agent.timeouts]\nread = 3\nGrep = 4\nzzz = 5"
    parsed = parse_config(text, "c.toml")
    assert parsed.config.agent.tools == ("Read",)
    assert parsed.warnings == (
        'c.toml:3: [agent] tools (entry 2) has no effect: did you mean "Bash"?',
        'c.toml:5: [agent.timeouts] read has no effect: did you mean "Read"?',
        f"c.toml:7: [agent.timeouts] zzz has no effect: there is no tool of that name; there are {', '.join(TOOLS)}",
    )
    assert parse_config("[agent]\ntools_file = 'mine.py'\ntools = ['mine']").warnings == ()


def test_what_has_no_effect_is_warned_about():
    assert parse_config("[agent]\nexecute_client_tools = true", "c.toml").warnings == (
        "c.toml:2: [agent] execute_client_tools has no effect: the agent is off, add enabled = true",
    )
    assert parse_config("[chatkit]\ntimeout = 3", "c.toml").warnings == (
        "c.toml:1: [chatkit] has no effect: it names no workflow",
    )


def test_chatkit():
    text = "[chatkit]\nworkflow = 'wf_1'\n"
    assert parse_config(text).config.chatkit == ChatKit(workflow="wf_1")
    chatkit = parse_config(text + "base_url = 'http://127.0.0.1:1/v1/'\ntimeout = 3").config.chatkit
    assert chatkit == ChatKit(workflow="wf_1", base_url="http://127.0.0.1:1/v1", api_key_optional=True, timeout=3.0)
    chatkit = parse_config(text + "base_url = 'http://127.0.0.1:1/v1/'\napi_key_env = 'MY_KEY'").config.chatkit
    assert (chatkit.api_key_env, chatkit.api_key_optional) == ("MY_KEY", False)
    parsed = parse_config(text + "api_key_file = 'key'", "/etc/kimi-proxy/config.toml")
    assert parsed.config.chatkit.api_key_file == "/etc/kimi-proxy/key"
