"""The real Claude Code through the gateway: it answers, runs tools, and never takes half an answer for a whole one.

Skipped only where node or npm is missing.
"""

import json
import signal

import pytest
import trio
from fakes.anthropic_upstream import SIGNATURE
from fakes.claude_code import ClaudeCode, NoNode, install_claude_code
from fakes.openai_upstream import marker
from fakes.script import FINAL, THOUGHTS, text_of
from fakes.service import wait_until

pytestmark = pytest.mark.integration
CONFIG = """
[models."claude-*"]
provider = "fake"
model = "text-12"
[models."*+demands-thought"]
provider = "claude"
[providers.renaming]
dialect = "anthropic"
base_url = "ANTHROPIC_URL"
normalise = ["model"]
[models.claude-renamed]
provider = "renaming"
model = "reasoning-tools"
"""
FINAL_ANSWER = "".join(FINAL).strip()
# Tool calls in fragments behind thought, and a demand, as Kimi's, to get the thought back.
# Claude Code sends thought back only to the model that it came from, by its name in the answer; so where all bytes
# pass, the upstream's name for it has to be the client's.
TOOL_MODELS = {"fake": "fake/reasoning-tools+demands-thought", "claude": "reasoning-tools+demands-thought"}


@pytest.fixture(scope="session")
def executable():
    try:
        return install_claude_code()
    except NoNode as missing:
        pytest.skip(str(missing))


@pytest.fixture
def service(shared):
    return shared.service


@pytest.fixture(params=["fake", "claude"])
def provider(request):
    """One that speaks OpenAI's dialect, and one that speaks Anthropic's."""
    return request.param


@pytest.fixture
def upstream(shared, provider):
    return shared.upstream(provider)


@pytest.fixture
def claude(executable, shared, tmp_path):
    return ClaudeCode(executable, tmp_path, shared.port)


@pytest.fixture
def mark():
    """A text in the prompt, by which its requests are found."""
    return marker("claude-code")


def tool(name: str, **arguments: str) -> str:
    """What makes the model call a tool."""
    return f"[[tool:{name} {json.dumps(arguments)}]]"


def outcomes(service, claude) -> list[tuple[str, int]]:
    """Status and whether it streamed, of each request of this Claude Code."""
    records = [record for record in service.records() if record["session"] == claude.session]
    assert {record["dialect"] for record in records} <= {"anthropic"}
    return [(record["status"], record["streaming"]) for record in records]


async def test_it_answers_by_whatever_model_its_own_name_leads_to(service, shared, claude, mark):
    ended = await claude.ask(mark)
    assert (ended.code, ended.said.strip()) == (0, "".join(text_of(12)).strip())
    [row] = shared.openai.rows_with(mark)
    assert row.model == "text-12"
    assert len(row.body["tools"]) > 10
    assert not any(name.startswith("anthropic-") for name in row.headers)
    # The first line of its system prompt differs in every session, and would spoil the provider's cache.
    assert "x-anthropic-billing-header" not in json.dumps(row.body)
    await wait_until(lambda: outcomes(service, claude) == [("completed", 1)])


async def test_it_answers_with_thought(claude, provider, mark):
    ended = await claude.ask(mark, "--model", f"{provider}/reasoning")
    assert (ended.code, ended.said.strip()) == (0, "".join(text_of(16)).strip())


async def test_it_runs_bash(service, claude, provider, upstream, mark):
    prompt = f"{mark} {tool('Bash', command=f'echo {mark} from bash | tee made')}"
    ended = await claude.ask(prompt, "--model", TOOL_MODELS[provider], "--dangerously-skip-permissions")
    assert (ended.code, ended.said.strip()) == (0, FINAL_ANSWER)
    assert (claude.workspace / "made").read_text() == f"{mark} from bash\n"
    check_round_trip(upstream.rows_with(mark), provider, "Bash", f"{mark} from bash")
    await wait_until(lambda: outcomes(service, claude) == [("completed", 1)] * 2)


async def test_thought_comes_back_to_a_model_of_another_name(shared, claude, mark):
    prompt = f"{mark} {tool('Bash', command=f'echo {mark} from bash')}"
    ended = await claude.ask(prompt, "--model", "claude-renamed", "--dangerously-skip-permissions")
    assert (ended.code, ended.said.strip()) == (0, FINAL_ANSWER)
    rows = shared.anthropic.rows_with(mark)
    assert {row.model for row in rows} == {"reasoning-tools"}
    check_round_trip(rows, "renaming", "Bash", f"{mark} from bash")


async def test_it_reads_a_file(claude, provider, upstream, mark):
    file = claude.workspace / "notes.txt"
    file.write_text(f"{mark} from the file\n")
    prompt = f"{mark} {tool('Read', file_path=str(file))}"
    ended = await claude.ask(prompt, "--model", TOOL_MODELS[provider], "--allowedTools", "Read")
    assert (ended.code, ended.said.strip()) == (0, FINAL_ANSWER)
    check_round_trip(upstream.rows_with(mark), provider, "Read", f"{mark} from the file")


@pytest.mark.parametrize("behaviour", ["tools-parallel", "tools-interleaved"])
async def test_it_runs_two_tools_at_once(claude, provider, upstream, mark, behaviour):
    calls = [tool("Bash", command=f"echo {name} > {name}") for name in ("first", "second")]
    ended = await claude.ask(
        " ".join([mark, *calls]), "--model", f"{provider}/{behaviour}", "--dangerously-skip-permissions"
    )
    assert (ended.code, ended.said.strip()) == (0, FINAL_ANSWER)
    assert {file.name: file.read_text() for file in claude.workspace.iterdir()} == {
        "first": "first\n",
        "second": "second\n",
    }
    assert len(upstream.rows_with(mark)) == 2


def check_round_trip(rows, provider, name, said):
    """The second request brings back the call, the thought before it, and what the tool said."""
    _, second = rows
    turns = [turn for turn in second.body["messages"] if turn["role"] != "system"]
    if provider == "fake":
        assert [turn["role"] for turn in turns] == ["user", "assistant", "tool"]
        _, called, result = turns
        assert called["reasoning_content"] == "".join(THOUGHTS)
        [call] = called["tool_calls"]
        assert call["function"]["name"] == name
        assert result["tool_call_id"] == call["id"]
    else:
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        [thought, call] = turns[1]["content"]
        assert thought == {"type": "thinking", "thinking": "".join(THOUGHTS), "signature": SIGNATURE}
        assert call["name"] == name
        result = turns[2]["content"][0]
        assert result["tool_use_id"] == call["id"]
    assert said in json.dumps(result["content"])


@pytest.mark.parametrize("provider", ["claude"], indirect=True)
async def test_what_only_anthropic_s_dialect_says_arrives_as_it_was_sent(claude, provider, upstream, mark):
    await claude.ask(mark, "--model", "claude/text")
    [row] = upstream.rows_with(mark)
    assert row.path == "/v1/messages?beta=true"
    assert row.headers["anthropic-version"] == "2023-06-01"
    betas = row.headers["anthropic-beta"].split(",")
    assert len(betas) > 3
    assert betas[0].startswith("claude-code-")
    assert row.body["context_management"]
    assert row.body["system"][0]["text"].startswith("x-anthropic-billing-header")
    assert "cache_control" in json.dumps(row.body["messages"])


@pytest.mark.parametrize("how", ["eof-after-8", "inline-error-8"])
async def test_a_stream_that_breaks_is_asked_for_again(service, claude, provider, upstream, mark, how):
    # These only break while they stream; Claude Code asks again for the answer in one piece.
    ended = await claude.ask(mark, "--model", f"{provider}/text+{how}")
    assert (ended.code, ended.said.strip()) == (0, "".join(text_of(16)).strip())
    assert [bool(row.body.get("stream")) for row in upstream.rows_with(mark)] == [True, False]
    await wait_until(lambda: outcomes(service, claude) == [("failed", 1), ("completed", 0)])


@pytest.mark.parametrize("what", ["text", "tools"])
async def test_half_an_answer_is_never_a_whole_one(service, claude, provider, mark, what):
    prompt = f"{mark} {tool('Bash', command='echo half > half')}"
    ended = await claude.ask(prompt, "--model", f"{provider}/{what}+cut-after-6", "--dangerously-skip-permissions")
    assert ended.code != 0
    assert "API Error" in ended.said
    assert text_of(2)[1].strip() not in ended.said
    assert list(claude.workspace.iterdir()) == []
    assert {status for status, _ in outcomes(service, claude)} == {"failed"}


async def test_an_upstream_that_refuses(claude, provider, upstream, mark):
    ended = await claude.ask(mark, "--model", f"{provider}/status-400")
    assert ended.code != 0
    assert "upstream says 400" in ended.said
    assert len(upstream.rows_with(mark)) == 1


async def test_ctrl_c_closes_the_upstream(service, claude, provider, upstream, mark):
    async with claude.started(mark, "--model", f"{provider}/slow-20+text-2000") as process:
        await wait_until(lambda: any(row.chunks > 5 for row in upstream.rows_with(mark)), "some words")
        process.send_signal(signal.SIGINT)
        await wait_until(lambda: upstream.rows_with(mark)[0].outcome == "client_closed", "the upstream's end")
        with trio.fail_after(10):
            await process.wait()
    await wait_until(lambda: outcomes(service, claude) == [("cancelled", 1)])
    assert len(upstream.rows_with(mark)) == 1


async def test_its_context_is_counted_without_asking_a_provider(shared, claude):
    # Without count_tokens it would send real requests.
    before = len(shared.openai.log)
    ended = await claude.ask("/context")
    assert ended.code == 0
    assert "Context Usage" in ended.said
    assert "System tools" in ended.said
    assert len(shared.openai.log) == before
