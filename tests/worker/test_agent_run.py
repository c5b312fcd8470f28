"""A run from its message to its record: turns, tools, ends of every kind, and that nothing is left behind."""

import json
import os
import threading

import pytest
import trio
from fakes.gateway import serve_gateway
from fakes.run import PATH, Memory, agent_config, events_in, message, run, text_of, tool_call, tool_calls
from fakes.upstream import (
    HANG,
    RESET,
    chunk,
    head,
    json_response,
    openai_chunk,
    openai_stream,
    serve_upstream,
    sse_response,
)
from structlog.testing import capture_logs

from shared.config import Provider
from shared.messages import Admit, CancelStream, Trouble
from shared.records import Tokens
from worker.agent.instructions import instructions

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
OWN = '''
import threading
import trio
from worker.agent.tools import Context, ToolError, tool

together = []
met = trio.Event()
release = threading.Event()
state = {"undone": False}


@tool(parallel=True)
async def meet(name: str) -> str:
    """Waits until two have come."""
    together.append(name)
    if len(together) == 2:
        met.set()
    await met.wait()
    return f"{name} met"


@tool
async def alone(name: str) -> str:
    """Must not run beside another."""
    if together:
        raise ToolError("not alone")
    together.append(name)
    await trio.testing.wait_all_tasks_blocked()
    together.remove(name)
    return f"{name} was alone"


@tool
def crash() -> str:
    """Crashes."""
    return [][1]


@tool
def leave() -> str:
    """Exits."""
    raise SystemExit(3)


@tool
async def hang() -> str:
    """Never ends."""
    try:
        await trio.sleep_forever()
    finally:
        state["undone"] = True


@tool
async def stubborn() -> str:
    """Doesn't let itself be cancelled."""
    with trio.CancelScope(shield=True):
        await trio.sleep(1.5)


@tool
def block(mark: str) -> str:
    """Sits in C."""
    open(mark, "w").close()
    release.wait(2)
'''


@pytest.fixture
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "tools.py"
    path.write_text(OWN + "\nimport trio.testing\n")
    return {"tools_file": str(path), "cancel_grace": 0.3}


@pytest.fixture
async def gateway(upstream, tmp_path, own):
    async with serve_gateway(agent_config(tmp_path, upstream, agent=own)) as gateway:
        gateway.answer = Memory()
        yield gateway


def sent(request):
    """The messages of a request, without the system's."""
    return [message for message in request.json["messages"] if message["role"] != "system"]


def tool_events(events):
    return [(event["name"], event["state"], event["index"]) for event in events if event["type"] == "tool"]


async def results(upstream, number=2):
    """What the model was told by its tools: the texts, in the order of the calls."""
    return [m["content"] for m in sent(await upstream.wait_request(number)) if m["role"] == "tool"]


async def begin(gateway, text="hi", **fields):
    client = await gateway.connect()
    await client.request("POST", PATH, message(text, **fields))
    await client.head()
    return client


# --- tools


async def test_tools_that_may_run_side_by_side(gateway, upstream):
    upstream.script(*tool_calls(("meet", {"name": "a"}), ("meet", {"name": "b"})))
    upstream.script(*openai_stream("done"))
    events = await run(gateway, "hi")
    assert await results(upstream) == ["a met", "b met"]
    assert tool_events(events)[:2] == [("meet", "start", 1), ("meet", "start", 2)]


async def test_one_that_changes_something_has_all_run_in_turn(gateway, upstream):
    upstream.script(*tool_calls(("alone", {"name": "a"}), ("LS", {"path": "."}), ("alone", {"name": "b"})))
    upstream.script(*openai_stream("done"))
    events = await run(gateway, "hi")
    first, _, last = await results(upstream)
    assert (first, last) == ("a was alone", "b was alone")
    order = [("alone", 1), ("LS", 2), ("alone", 3)]
    assert tool_events(events) == [(name, state, index) for name, index in order for state in ("start", "end")]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("Raed", {}), "did you mean Read?"),
        (("Read", {}), "`file_path` is required"),
        (("Read", {"file_path": "../secret"}), "Error"),
        (("Read", {"file_path": "nothing.txt"}), "nothing.txt"),
        (("crash", {}), "IndexError"),
        (("leave", {}), "leave failed: SystemExit: 3"),
    ],
)
async def test_what_a_tool_fails_with_is_the_model_s_to_read(gateway, upstream, call, told):
    upstream.script(*tool_calls(call))
    upstream.script(*openai_stream("I see"))
    events = await run(gateway, "hi")
    [said] = await results(upstream)
    assert said.startswith("Error")
    assert told in said
    assert events[-1] == {"type": "done"}
    assert (await gateway.wait_record()).status == "completed"


async def test_arguments_that_are_cut_off(gateway, upstream):
    function = {"name": "Read", "arguments": '{"file_path": "a'}
    call = {"index": 0, "id": "c", "type": "function", "function": function}
    upstream.script(
        *sse_response([openai_chunk({"tool_calls": [call]}), openai_chunk({}, "length"), "data: [DONE]\n\n"])
    )
    upstream.script(*openai_stream("I see"))
    assert text_of(await run(gateway, "hi")) == "I see"
    [said] = await results(upstream)
    assert "no complete JSON object" in said


async def test_a_tool_s_own_time(upstream, tmp_path, own):
    config = agent_config(tmp_path, upstream, agent={**own, "timeouts": {"hang": 0.05}})
    async with serve_gateway(config) as gateway:
        upstream.script(*tool_call("hang"))
        upstream.script(*openai_stream("I see"))
        assert text_of(await run(gateway, "hi")) == "I see"
        assert await results(upstream) == [
            "Error: hang was stopped, as it had not ended after 0.05 s: ask for less at once"
        ]


async def test_a_long_result_is_cut(upstream, tmp_path, own):
    config = agent_config(tmp_path, upstream, agent={**own, "max_output_chars": 1000})
    async with serve_gateway(config) as gateway:
        upstream.script(*tool_call("Bash", command="seq 100000"))
        upstream.script(*openai_stream("I see"))
        await run(gateway, "hi")
        [said] = await results(upstream)
        assert len(said) < 1200
        assert "left out" in said
        assert "100000" in said


async def test_a_plan_ends_the_run(gateway, upstream):
    upstream.script(*tool_call("ExitPlanMode", plan="1. Sleep"))
    events = await run(gateway, "make a plan", session_id="s")
    assert text_of(events) == "1. Sleep"
    assert events[-1] == {"type": "done"}
    assert len(upstream.requests) == 1
    upstream.script(*openai_stream("slept"))
    await run(gateway, "go", session_id="s")
    assert [m["role"] for m in sent(await upstream.wait_request(2))] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]


async def test_thought_goes_back_with_the_calls(gateway, upstream):
    function = {"name": "LS", "arguments": '{"path":"."}'}
    call = {"index": 0, "id": "c", "type": "function", "function": function}
    thought = openai_chunk({"reasoning_content": "let me look"})
    upstream.script(
        *sse_response(
            [thought, openai_chunk({"tool_calls": [call]}), openai_chunk({}, "tool_calls"), "data: [DONE]\n\n"]
        )
    )
    upstream.script(*openai_stream("nothing there"))
    await run(gateway, "hi", session_id="s")
    upstream.script(*openai_stream("still nothing"))
    await run(gateway, "and now?", session_id="s")
    for number in (2, 3):
        calling = sent(await upstream.wait_request(number))[1]
        assert (calling["reasoning_content"], calling["tool_calls"][0]["id"]) == ("let me look", "c")


async def test_checkpoints(gateway, upstream):
    words = [f"word{n} " for n in range(120)]
    upstream.script(*openai_stream(*words))
    events = await run(gateway, "hi")
    total = gateway.gateway.counter.count_delta("".join(words))
    at = [event["tokens"] for event in events if event["type"] == "checkpoint"]
    assert at == list(range(50, total + 1, 50))
    assert at


# --- runs in runs


async def test_a_nested_run(gateway, upstream):
    upstream.script(*tool_call("Task", description="look", prompt="what is here?"))
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("not much", usage=(5, 2)))
    upstream.script(*openai_stream("It says: not much", usage=(7, 3)))
    events = await run(gateway, "hi")
    assert text_of(events) == "It says: not much"
    assert [event["name"] for event in events if event["type"] == "tool"] == ["Task", "Task"]
    inner = await upstream.wait_request(2)
    assert [m["content"] for m in sent(inner)] == ["what is here?"]
    assert "started by another agent" in inner.json["messages"][0]["content"]
    assert await results(upstream, 4) == ["not much"]
    record = await gateway.wait_record()
    assert len(gateway.records) == 1
    assert record.prompt.count > 12


async def test_nested_runs_side_by_side(gateway, upstream):
    tasks = [("Task", {"description": name, "prompt": name}) for name in ("a", "b")]
    upstream.script(*tool_calls(*tasks))
    upstream.script(SSE, HANG)
    upstream.script(SSE, HANG)
    client = await begin(gateway)
    await upstream.wait_request(3)
    client.close()
    assert (await gateway.wait_record()).error_type == "client_disconnect"
    await upstream.wait_open(0)


async def test_runs_are_nested_only_so_deep(upstream, tmp_path, own):
    async with serve_gateway(agent_config(tmp_path, upstream, agent={**own, "max_depth": 1})) as gateway:
        for _ in range(2):
            upstream.script(*tool_call("Task", description="look", prompt="go on"))
        upstream.script(*openai_stream("I can't"))
        upstream.script(*openai_stream("I see"))
        assert text_of(await run(gateway, "hi")) == "I see"
        assert "nested 1 deep" in (await results(upstream, 3))[0]
        assert await results(upstream, 4) == ["I can't"]


async def test_a_nested_run_that_fails_is_a_tool_that_fails(upstream, tmp_path, own):
    config = agent_config(tmp_path, upstream, agent=own, provider={"max_retries": 0})
    async with serve_gateway(config) as gateway:
        upstream.script(*tool_call("Task", description="look", prompt="go on"))
        upstream.script(json_response({"error": {"message": "out of luck"}}, 500))
        upstream.script(*openai_stream("I see"))
        assert text_of(await run(gateway, "hi")) == "I see"
        assert "the nested run failed" in (told := (await results(upstream, 3))[0])
        assert "out of luck" in told


# --- how runs end


async def test_too_many_turns(upstream, tmp_path, own):
    async with serve_gateway(agent_config(tmp_path, upstream, agent={**own, "max_iterations": 2})) as gateway:
        for _ in range(3):
            upstream.script(*tool_call("LS", path="."))
        events = await run(gateway, "hi")
        assert events[-1]["type"] == "done"
        assert "2 turns" in events[-1]["error"]
        assert len(upstream.requests) == 2
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("failed", "MaxIterations")


@pytest.mark.parametrize("phase", ["headers", "stream", "tool"])
async def test_a_run_s_time(upstream, tmp_path, own, phase):
    async with serve_gateway(agent_config(tmp_path, upstream, agent={**own, "response_timeout": 0.2})) as gateway:
        script = {"headers": (HANG,), "stream": (SSE, chunk(openai_chunk({"content": "well"})), HANG)}
        upstream.script(*script.get(phase, tool_call("hang")))
        events = await run(gateway, "hi")
        assert events[-1] == {"type": "done", "error": "timeout"}
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("failed", "ResponseTimeout")
        if phase != "tool":
            await upstream.wait_open(0)


async def test_who_refuses_is_quoted(gateway, upstream):
    upstream.script(json_response({"error": {"message": "no credit left"}}, 402))
    events = await run(gateway, "hi")
    assert events[-1] == {"type": "done", "error": "provider one answered with status 402: no credit left"}


async def test_a_failure_before_anything_is_said_is_tried_again(gateway, upstream):
    upstream.script(json_response({"error": {"message": "sorry"}}, 503))
    upstream.script(*tool_call("LS", path="."))
    upstream.script(SSE, RESET)
    upstream.script(*openai_stream("done", usage=(9, 1)))
    assert text_of(await run(gateway, "hi")) == "done"
    assert (await gateway.wait_record()).retries == 2


async def test_who_answers_once_answers_on(upstream, tmp_path):
    async with serve_upstream() as second:
        config = agent_config(tmp_path, upstream, second, provider={"max_retries": 0})
        async with serve_gateway(config) as gateway:
            upstream.script(json_response({"error": {"message": "sorry"}}, 503))
            second.script(*tool_call("LS", path="."))
            second.script(*openai_stream("done"))
            assert text_of(await run(gateway, "hi")) == "done"
            assert (await gateway.wait_record()).provider == "two"
            assert len(upstream.requests) == 1


async def test_a_stream_that_breaks_ends_the_run(gateway, upstream):
    upstream.script(SSE, chunk(openai_chunk({"content": "half "})), RESET)
    events = await run(gateway, "hi")
    assert text_of(events) == "half "
    assert events[-1]["type"] == "done"
    assert events[-1]["error"]
    record = await gateway.wait_record()
    assert (record.status, record.completion.source) == ("failed", "partial")
    assert len([said for said in gateway.heard if isinstance(said, Trouble)]) == 1


async def test_an_error_inside_a_stream_is_told_once(gateway, upstream):
    error = 'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'
    upstream.script(*sse_response([openai_chunk({"content": "half "}), error]))
    events = await run(gateway, "hi")
    assert "overloaded" in events[-1]["error"]
    await gateway.wait_record()
    assert len([said for said in gateway.heard if isinstance(said, Trouble)]) == 1


async def test_the_record_is_the_sum_of_the_turns(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("done", usage=(9, 1)))
    await run(gateway, "hi")
    record = await gateway.wait_record()
    assert record.prompt.source == record.completion.source == "counted"
    assert record.prompt.count > 9
    for number in range(2):
        call = {"index": 0, "id": f"c{number}", "type": "function", "function": {"name": "LS", "arguments": "{}"}}
        usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
        told = openai_chunk({}, "tool_calls", usage=usage)
        upstream.script(*sse_response([openai_chunk({"tool_calls": [call]}), told, "data: [DONE]\n\n"]))
    upstream.script(*openai_stream("done", usage=(30, 1)))
    await run(gateway, "hi")
    record = await gateway.wait_record(2)
    assert record.prompt == Tokens(50, "provider")
    assert record.completion == Tokens(9, "provider")
    assert record.counted_completion > 0


# --- cancelled


def no_traces_of(marker):
    """No process has `marker` in its command line."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if marker.encode() in line:
            return False
    return True


@pytest.mark.parametrize("who", ["client", "admin", "shutdown"])
@pytest.mark.parametrize("phase", ["headers", "stream", "tool", "program"])
async def test_a_cancel_leaves_nothing(gateway, upstream, who, phase):
    nap = f"31.{threading.get_ident() % 10**6}"
    scripts = {
        "headers": [(HANG,)],
        "stream": [(SSE, chunk(openai_chunk({"content": "well"})), HANG)],
        "tool": [tool_call("hang")],
        "program": [tool_call("Bash", command=f"trap '' TERM; (sleep {nap} &) ; sleep {nap}")],
    }
    for script in scripts[phase]:
        upstream.script(*script)
    client = await begin(gateway)
    start = await gateway.wait_started()
    marks = {"stream": b"well", "tool": b'"start"', "program": b'"start"'}
    if phase in marks:
        await client.until(marks[phase])
    await upstream.wait_request()
    if phase == "program":
        await gateway.wait(lambda: not no_traces_of(nap))
    began = trio.current_time()
    match who:
        case "client":
            client.close()
        case "admin":
            gateway.gateway.sessions.cancel(start.id, "admin")
        case "shutdown":
            gateway.gateway.sessions.cancel_all("shutdown")
    if who != "client":
        assert events_in(await client.body())[-1] == {"type": "done", "error": "stream_cancelled"}
    record = await gateway.wait_record()
    assert trio.current_time() - began < 0.6
    assert (record.status, record.error_type) == ("cancelled", "client_disconnect" if who == "client" else who)
    assert no_traces_of(nap)
    if phase in ("headers", "stream"):
        await upstream.wait_open(0)


async def test_a_tool_that_can_t_be_cancelled_is_left(gateway, upstream):
    upstream.script(*tool_call("stubborn"))
    client = await begin(gateway)
    start = await gateway.wait_started()
    await client.until(b'"start"')
    began = trio.current_time()
    with capture_logs() as logs:
        gateway.gateway.sessions.cancel(start.id, "admin")
        assert (await gateway.wait_record()).status == "cancelled"
        assert events_in(await client.until(b"done"))[-1]["error"] == "stream_cancelled"
    assert trio.current_time() - began < 1.0
    [line] = [log for log in logs if log["event"] == "agent_task_timeout_on_cancel"]
    assert (line["trace"], line["task"]) == (start.trace, "stubborn")


async def test_a_thread_that_can_t_be_cancelled_is_left(gateway, upstream, tmp_path):
    mark = tmp_path / "mark"
    upstream.script(*tool_call("block", mark=str(mark)))
    client = await begin(gateway)
    await gateway.wait(mark.exists)
    client.close()
    assert (await gateway.wait_record()).status == "cancelled"
    await gateway.wait(lambda: gateway.gateway.abandoned.total == 1)


# --- conversations


async def test_a_session_goes_on(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("nothing there"))
    await run(gateway, "what is there?", session_id="s")
    upstream.script(*openai_stream("as I said"))
    await run(gateway, "sure?", session_id="s")
    said = sent(await upstream.wait_request(3))
    assert [m["role"] for m in said] == ["user", "assistant", "tool", "assistant", "user"]
    assert (said[0]["content"], said[-2]["content"], said[-1]["content"]) == (
        "what is there?",
        "nothing there",
        "sure?",
    )


async def test_a_run_waits_for_the_older_one_of_its_session(gateway, upstream):
    """The older one's words are kept when it is told to go, and only then are they loaded."""
    upstream.script(SSE, chunk(openai_chunk({"content": "half"})), HANG)
    older = await begin(gateway, "first", session_id="s")
    await older.until(b"half")
    held = []
    verdict = gateway.verdict

    def hold(admit: Admit):
        held.append(admit)

    gateway.verdict = hold
    upstream.script(*openai_stream("second answer"))
    newer = await begin(gateway, "second", session_id="s")
    await newer.until(b"thinking")
    await gateway.wait(lambda: held)
    gateway.command(CancelStream(gateway.started[0].id, "registry_new_stream"))
    gateway.gateway.sessions.cancel(gateway.started[0].id, "registry_new_stream")
    assert events_in(await older.body())[-1] == {"type": "done", "error": "stream_cancelled"}
    gateway.verdict = verdict
    gateway.gateway.admissions.take(verdict(held[0]))
    assert text_of(events_in(await newer.body())) == "second answer"
    assert [m["content"] for m in sent(await upstream.wait_request(2))] == ["first", "half", "second"]


async def test_a_failed_run_leaves_no_question_behind(gateway, upstream):
    upstream.script(json_response({"error": {"message": "no"}}, 400))
    await run(gateway, "first", session_id="s")
    upstream.script(*openai_stream("hello"))
    await run(gateway, "second", session_id="s")
    assert [m["content"] for m in sent(await upstream.wait_request(2))] == ["second"]


async def test_a_memory_that_fails_is_told(gateway, upstream):
    gateway.answer = lambda question: (503, b"{}")
    events = await run(gateway, "hi", session_id="s")
    assert "can't be read" in events[-1]["error"]
    assert upstream.requests == []


async def test_tools_that_can_t_be_loaded(upstream, tmp_path):
    (tmp_path / "own.py").write_text("import nothing_like_that\n")
    config = agent_config(tmp_path, upstream, agent={"tools_file": str(tmp_path / "own.py")})
    async with serve_gateway(config) as gateway:
        client = await gateway.connect()
        await client.request("POST", PATH, message("hi"))
        head_, body = await client.answer()
        assert head_.status == 503
        assert "own.py" in json.loads(body)["error"]["message"]


async def test_limits_hold_for_each_turn(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("done"))
    provider = gateway.gateway.config.providers["one"]
    assert isinstance(provider, Provider)
    await run(gateway, "hi", session_id="s")
    await gateway.wait_record()
    assert len([said for said in gateway.heard if isinstance(said, Admit)]) == 3  # for the conversation, and each turn


def test_the_user_s_own_instructions_come_first(tmp_path):
    from shared.config import Agent

    settings = Agent(workspace=str(tmp_path), system="Be kind.")
    first, second = instructions(settings, ["TodoWrite"], max_steps=3)
    assert first.text == "Be kind."
    assert str(tmp_path) in second.text
    assert "TodoWrite" in second.text
    assert "3 turns" in second.text
    [only] = instructions(Agent(workspace="/w"), [], max_steps=3, nested=True)
    assert "started by another agent" in only.text
