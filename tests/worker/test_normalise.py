import pytest
from fakes.dialect_streams import DONE, call, chunk, cut_at
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UpstreamBroken
from worker.dialects.neutral import (
    Answer,
    Begin,
    Event,
    Failed,
    Redacted,
    RedactedThinking,
    SignatureDelta,
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Usage,
    UsageTold,
)
from worker.dialects.normalise import NormalisedStream, normalised
from worker.dialects.openai.stream_decoder import OpenAIStreamDecoder

BOTH = ("think", "tool_calls")


class Scripted:
    """A decoder whose events are laid out beforehand, one list for each piece."""

    def __init__(self, *script: list[Event]) -> None:
        self.script = list(script)
        self.done = False

    def receive(self, data: bytes) -> list[Event]:
        events = self.script.pop(0)
        self.done = any(isinstance(event, Stop | Failed) for event in events)
        return events

    def receive_eof(self) -> list[Event]:
        raise UpstreamBroken("cut")


def passed(events: list[Event], rules=BOTH) -> list[Event]:
    """What becomes of the events, fed one by one."""
    stream = NormalisedStream(Scripted(*([event] for event in events)), rules)
    return [event for _ in events for event in stream.receive(b"")]


def joined(events: list[Event]) -> list[Event]:
    """The events, neighbours of a kind made one."""
    whole: list[Event] = []
    for event in events:
        match event, whole[-1] if whole else None:
            case (TextDelta(more), TextDelta(text)) | (ThinkingDelta(more), ThinkingDelta(text)):
                whole[-1] = type(event)(text + more)
            case ToolDelta(index, more), ToolDelta(same, text) if same == index:
                whole[-1] = ToolDelta(index, text + more)
            case _:
                whole.append(event)
    return whole


def in_pieces(text: str, places: list[int]) -> list[Event]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [TextDelta(text[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)]  # noqa: RUF007


def of_text(text: str, rules=BOTH, stop: Stop | None = None) -> list[Event]:
    """What a text becomes: whole, in two pieces cut anywhere, and by character, which are all the same."""
    stop = stop or Stop("end")
    expected = joined(passed([TextDelta(text), stop], rules))
    for places in [list(range(len(text))), *([at] for at in range(len(text)))]:
        assert joined(passed([*in_pieces(text, places), stop], rules)) == expected
    return expected


SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
WEATHER = '<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|>'
TIME = "<|tool_call_begin|>functions.mcp__clock.time:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
WEATHER_CALL = [ToolStart(0, "functions.get_weather:0", "get_weather"), ToolDelta(0, '{"city": "Oslo"}')]
TIME_CALL = [ToolStart(1, "functions.mcp__clock.time:1", "mcp__clock.time"), ToolDelta(1, "{}")]


# --- think


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("<think>hm</think>a", [ThinkingDelta("hm"), TextDelta("a")]),
        ("◁think▷hm◁/think▷a", [ThinkingDelta("hm"), TextDelta("a")]),
        ("<think>\nhm\n</think>\n\na\n", [ThinkingDelta("hm\n"), TextDelta("a\n")]),
        ("<think>\n\n</think>\n\na", [TextDelta("a")]),
        ("a<think>b</think>c<think>d", [TextDelta("a"), ThinkingDelta("b"), TextDelta("c"), ThinkingDelta("d")]),
        ("<think>a < b, </thin>, <think> </think>c", [ThinkingDelta("a < b, </thin>, <think> "), TextDelta("c")]),
        ("<thin", [TextDelta("<thin")]),
        ("<<think>a</thi", [TextDelta("<"), ThinkingDelta("a</thi")]),
        ("a </think> b < c", [TextDelta("a </think> b < c")]),
        ("a ◁ b ◁/think▷", [TextDelta("a ◁ b ◁/think▷")]),
        ("", []),
    ],
)
def test_think(text, events):
    assert of_text(text, ("think",)) == [*events, Stop("end")]


def test_what_can_no_longer_be_a_marker_is_let_go_at_once():
    events = [TextDelta("a <"), TextDelta("th"), TextDelta("e"), TextDelta("<")]
    assert passed(events, ("think",)) == [TextDelta("a "), TextDelta("<the")]
    assert passed([TextDelta("plain")], BOTH) == [TextDelta("plain")]


@pytest.mark.parametrize("last", [Stop("end"), Failed("no"), ToolStart(0, "x", "f"), ThinkingDelta("hm")])
def test_what_is_held_goes_before_other_events(last):
    assert passed([TextDelta("<th"), last], ("think",)) == [TextDelta("<th"), last]
    assert passed([TextDelta("<think>a</th"), last], ("think",)) == [ThinkingDelta("a"), ThinkingDelta("</th"), last]


def test_usage_interrupts_nothing():
    told = UsageTold(Usage(prompt_tokens=1))
    events = [Begin(), TextDelta("<th"), told, TextDelta("ink>a")]
    assert passed(events, ("think",)) == [Begin(), told, ThinkingDelta("a")]


def test_thought_holds_no_think_markers():
    assert passed([ThinkingDelta("<think>")], ("think",)) == [ThinkingDelta("<think>")]


# --- tool calls


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (SECTION + WEATHER + SECTION_END, WEATHER_CALL),
        (SECTION + WEATHER + TIME + SECTION_END, [*WEATHER_CALL, *TIME_CALL]),
        (f"a\n{SECTION}\n{WEATHER}\n{TIME}\n{SECTION_END}", [TextDelta("a\n"), *WEATHER_CALL, *TIME_CALL]),
        (f"{SECTION}{WEATHER}{SECTION_END} b", [*WEATHER_CALL, TextDelta(" b")]),
        (WEATHER, WEATHER_CALL),
        (SECTION + WEATHER.removesuffix("<|tool_call_end|>"), WEATHER_CALL),
        (SECTION + WEATHER.removesuffix("end|>"), WEATHER_CALL),
        (SECTION + WEATHER.removesuffix("<|tool_call_end|>") + SECTION_END, WEATHER_CALL),
        (SECTION + WEATHER.removesuffix("<|tool_call_end|>") + TIME + SECTION_END, [*WEATHER_CALL, *TIME_CALL]),
        (f"{SECTION}{WEATHER}\nodd \n one\n{SECTION_END}", [*WEATHER_CALL, TextDelta("\nodd \n one")]),
        (
            "<|tool_call_begin|> f \n<|tool_call_argument_begin|>{}<|tool_call_end|>",
            [ToolStart(0, "f", "f"), ToolDelta(0, "{}")],
        ),
    ],
)  # fmt: skip
def test_tool_calls(text, events):
    assert of_text(text) == [*events, Stop("tools")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a <| b <|tool_call", "a <| b <|tool_call"),
        ("<|tool_call_begin|>functions.f", "<|tool_call_begin|>functions.f"),
        ("<|tool_call_begin|>f<|tool_call_end|>a", "<|tool_call_begin|>f<|tool_call_end|>a"),
        ("<|tool_call_begin|> <|tool_call_argument_begin|>{}", "<|tool_call_begin|> <|tool_call_argument_begin|>{}"),
        ("<|tool_call_argument_begin|>", "<|tool_call_argument_begin|>"),
        (f"a{SECTION}{SECTION_END}", "a"),
    ],
)
def test_what_is_no_call_stays_text(text, told):
    assert of_text(text) == [TextDelta(told), Stop("end")]


def test_an_endless_header_is_text():
    text = "<|tool_call_begin|>" + "x" * 600
    events = passed([TextDelta(text), TextDelta("y"), Stop("end")])
    assert events == [TextDelta(text), TextDelta("y"), Stop("end")]


def test_other_reasons_stay():
    for reason in ("length", "refusal"):
        assert passed([TextDelta(WEATHER), Stop(reason)])[-1] == Stop(reason)


def test_a_call_that_was_cut_off_holds_what_came():
    text = SECTION + WEATHER.partition(' "Oslo"')[0]
    assert of_text(text, stop=Stop("length")) == [WEATHER_CALL[0], ToolDelta(0, '{"city":'), Stop("length")]


def test_arguments_stream_as_they_come():
    events = [TextDelta(SECTION + WEATHER.partition(' "Oslo"')[0]), TextDelta(' "Os'), TextDelta('lo"}<|tool')]
    assert passed(events) == [
        WEATHER_CALL[0],
        ToolDelta(0, '{"city":'),
        ToolDelta(0, ' "Os'),
        ToolDelta(0, 'lo"}'),
    ]


def test_calls_in_thought():
    text = f"hm {SECTION}{WEATHER}{SECTION_END} so"
    expected = [ThinkingDelta("hm "), *WEATHER_CALL, ThinkingDelta(" so"), TextDelta("a"), Stop("tools")]
    for pieces in ([text], list(text)):
        events = [*map(ThinkingDelta, pieces), TextDelta("a"), Stop("end")]
        assert joined(passed(events, ("tool_calls",))) == expected
    assert joined(passed([TextDelta(f"<think>{text}</think>a"), Stop("end")])) == expected


def test_calls_that_the_host_found_itself_are_numbered_with_them():
    events = [ToolStart(0, "x", "f"), ToolDelta(0, "{"), TextDelta(WEATHER), ToolDelta(0, "}"), ToolStart(1, "y", "g")]
    assert passed([*events, ToolDelta(1, "{}"), Stop("tools")]) == [
        ToolStart(0, "x", "f"),
        ToolDelta(0, "{"),
        ToolStart(1, "functions.get_weather:0", "get_weather"),
        ToolDelta(1, '{"city": "Oslo"}'),
        ToolDelta(0, "}"),
        ToolStart(2, "y", "g"),
        ToolDelta(2, "{}"),
        Stop("tools"),
    ]


# --- both, around a decoder and in a whole answer


def test_a_stream_that_breaks_breaks():
    with pytest.raises(UpstreamBroken):
        NormalisedStream(Scripted(), BOTH).receive_eof()


TEXT = f"<think>hm</think>I'll look.{SECTION}{WEATHER}{SECTION_END}"
STREAM = b"".join(chunk({"content": piece}) for piece in TEXT) + chunk({}, "stop") + DONE


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_in_any_chunking(places):
    stream = NormalisedStream(OpenAIStreamDecoder(100_000), BOTH)
    events = [event for piece in cut_at(STREAM, places) for event in stream.receive(piece)]
    assert stream.done
    assert joined(events) == [Begin(), ThinkingDelta("hm"), TextDelta("I'll look."), *WEATHER_CALL, Stop("tools")]


def test_without_rules_nothing_changes():
    assert joined(passed([TextDelta(TEXT), Stop("end")], ())) == [TextDelta(TEXT), Stop("end")]
    answer = Answer(parts=(Text(TEXT),), stop="end")
    assert normalised(answer, ()) is answer


def test_a_call_of_the_dialect_passes():
    stream = NormalisedStream(OpenAIStreamDecoder(100_000), BOTH)
    events = stream.receive(chunk(call(0, "x", "f", "{}")) + chunk({}, "stop") + DONE)
    assert events == [Begin(), ToolStart(0, "x", "f"), ToolDelta(0, "{}"), Stop("tools")]


def test_a_whole_answer():
    answer = Answer(
        parts=(
            Thinking("before", "signature"),
            RedactedThinking("r"),
            Text("one"),
            Text(TEXT),
            ToolCall("x", "f", "{}"),
            Text("<thi"),
        ),
        stop="end",
        usage=Usage(prompt_tokens=1),
    )
    assert normalised(answer, BOTH) == Answer(
        parts=(
            Thinking("before", "signature"),
            RedactedThinking("r"),
            Text("one"),
            Thinking("hm"),
            Text("I'll look."),
            ToolCall("functions.get_weather:0", "get_weather", '{"city": "Oslo"}'),
            ToolCall("x", "f", "{}"),
            Text("<thi"),
        ),
        stop="tools",
        usage=Usage(prompt_tokens=1),
    )


def test_a_whole_answer_keeps_what_needs_no_rule():
    parts = (Thinking("", "signature"), Thinking("a"), Thinking("b"), Text("a"), Text("b"), ToolCall("x", "f", ""))
    answer = Answer(parts=parts, stop="sequence", stop_sequence="END")
    assert normalised(answer, BOTH) == answer


pieces = st.sampled_from(
    ["<think>", "</think>", "◁think▷", "<|", "<", "</", SECTION, SECTION_END, "a", " ", "a b\n", "{}", "f"]
    + [f"<|tool_call_{name}|>" for name in ("begin", "argument_begin", "end")]
)
odd_events = st.lists(
    st.builds(TextDelta, pieces)
    | st.builds(ThinkingDelta, pieces)
    | st.just(SignatureDelta("s"))
    | st.just(Redacted("r"))
    | st.just(UsageTold(Usage())),
    max_size=30,
)


@given(odd_events, st.sampled_from([(), ("think",), ("tool_calls",), BOTH]), st.lists(st.integers(0, 10)))
def test_whatever_comes_is_cut_alike(events, rules, places):
    """However the texts are cut, and with no words lost but markers and blanks."""
    cut: list[Event] = []
    for number, event in enumerate(events):
        if isinstance(event, TextDelta | ThinkingDelta) and places:
            at = places[number % len(places)]
            cut += [type(event)(event.text[:at]), type(event)(event.text[at:])]
        else:
            cut.append(event)
    stop = Stop("end")
    # Usage may come anywhere between the texts.
    told, told_cut = (
        [e for e in passed([*these, stop], rules) if not isinstance(e, UsageTold)] for these in (events, cut)
    )
    assert joined([e for e in told if getattr(e, "text", "x")]) == joined(
        [e for e in told_cut if getattr(e, "text", "x")]
    )
    numbers = [event.index for event in told if isinstance(event, ToolStart)]
    assert numbers == list(range(len(numbers)))
