"""An upstream's word for a prompt that is too long for its model, told so that clients know what to do.

Clients make room and ask again, if they understand: Claude Code matches the words of Anthropic's two messages, and the
numbers in them; OpenAI's have a code.  Every host of models says it in words of its own.
"""

import re
from typing import Any

import msgspec
from msgspec import Struct

from worker.dialects.lenient import BAD_JSON

OPENAI_CODE = "context_length_exceeded"
STATUSES = frozenset({400, 413, 422})
"""Those that hosts answer with; Anthropic does with 400."""

# Longer messages quote the request, and say what is wrong before that.
_MAX_CHARS = 4096
_CODES = frozenset(
    {
        OPENAI_CODE,
        "context_window_exceeded",
        "exceed_context_size_error",  # llama.cpp
        "model_max_prompt_tokens_exceeded",
    }
)
# "Tokens per minute" are too many for now, not for the model.
_RATE = re.compile(r"per (?:second|minute|hour|day)|rate.?limit|\btp[md]\b", re.IGNORECASE)
_OVERFLOW = re.compile(
    r"""prompt\ is\ too\ long                                         # Anthropic
    | input\ is\ too\ long
    | prompt\ exceeds\ max                                          # Zhipu
    | prompt\ contains\ .*\ too\ large                              # Mistral
    | exceed(?:s|ed)?\ model\ token\ limit                          # Kimi
    | maximum\ (?:context|prompt|input|sequence)\ length            # OpenAI, vLLM, OpenRouter, DeepSeek, xAI
    | maximum\ number\ of\ tokens\ allowed                          # Gemini
    | exceeds?\ (?:the\ )?(?:available\ |maximum\ )?context         # llama.cpp
    | exceeds?\ context\ limit                                      # Anthropic, of the prompt and max_tokens together
    | longer\ than\ the\ model's\ context\ length                   # SGLang
    | context\ window\ exceeds                                      # MiniMax
    | range\ of\ input\ length                                      # DashScope
    | max_seq_len                                                   # SiliconFlow
    | reduce\ the\ length\ of\ the\ (?:messages|prompt)             # Groq, Cerebras
    | token\ count\ .*\ exceeds\ the\ limit                         # Copilot
    | `inputs`\ tokens                                              # TGI
    """,
    re.IGNORECASE | re.VERBOSE,
)

_N = r"(\d[\d,]{0,14})"
_LIMIT = re.compile(
    rf"(?<!current )length (?:is|of) (?:only )?{_N}|token limit:? {_N}|context (?:size|length|window) \({_N}"
    rf"|{_N} maximum context|allowed \({_N}|max_seq_len \({_N}|limit (?:is|of) {_N}"
    rf"|<= {_N}|\[\d+, {_N}\]|> {_N} maximum",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    rf"{_N} (?:tokens )?(?:in|from) the (?:input )?messages|{_N} input tokens|token count \({_N}|token count of {_N}"
    rf"|contains {_N}|current length is {_N}|request \({_N}|input \({_N}|{_N} `inputs` tokens and|prompt_tokens \({_N}"
    rf"|too long: {_N}|resulted in {_N}",
    re.IGNORECASE,
)
_COMPLETION = re.compile(
    rf"{_N} (?:tokens )?(?:in|for) the (?:completion|output)|too large: {_N}|{_N} `max_new_tokens`", re.IGNORECASE
)
_TOTAL = re.compile(rf"requested:? (?:about )?(?:a total of )?{_N}", re.IGNORECASE)
_SUM = re.compile(rf"context limit: {_N} \+ {_N} > {_N}", re.IGNORECASE)


class Overflow(Struct, frozen=True):
    """A request too long for its model, in tokens as far as the upstream told them."""

    limit: int | None = None
    prompt: int | None = None
    completion: int | None = None
    """What the client wanted at most, where that is what is too much."""

    def in_anthropic_s_words(self, message: str) -> str:
        """What Anthropic would say, and then what the upstream said."""
        if self.limit is None or self.prompt is None:
            said = "prompt is too long"
        elif self.prompt > self.limit:
            said = f"prompt is too long: {self.prompt} tokens > {self.limit} maximum"
        elif self.completion is not None:
            said = (
                f"input length and `max_tokens` exceed context limit: {self.prompt} + {self.completion} > {self.limit},"
                " decrease input length or `max_tokens` and try again"
            )
        else:
            said = "prompt is too long"
        return f"{said}; the upstream said: {message}"


class _Error(Struct, frozen=True):
    code: Any = None
    type: Any = None
    n_prompt_tokens: Any = None
    n_ctx: Any = None


class _Body(Struct):
    error: _Error = _Error()


_body: msgspec.json.Decoder[_Body] = msgspec.json.Decoder(_Body)


def find_overflow(status: int, body: bytes, message: str) -> Overflow | None:
    """What an upstream's refusal tells of a prompt that is too long; None if it is about something else.

    `message` is what its error body says.
    """
    if status not in STATUSES:
        return None
    try:
        error = _body.decode(body).error
    except BAD_JSON:
        error = _Error()
    message = message[:_MAX_CHARS]
    if not any(isinstance(word, str) and word in _CODES for word in (error.code, error.type)) and (
        _RATE.search(message) or not _OVERFLOW.search(message)
    ):
        return None
    if told := _SUM.search(message):
        return Overflow(prompt=_number(told[1]), completion=_number(told[2]), limit=_number(told[3]))
    limit = error.n_ctx if isinstance(error.n_ctx, int) else _first(_LIMIT, message)
    completion, total = _first(_COMPLETION, message), _first(_TOTAL, message)
    prompt = error.n_prompt_tokens if isinstance(error.n_prompt_tokens, int) else _first(_PROMPT, message)
    if prompt is None and total is not None:
        prompt = total
    if completion is not None and total is not None and total > completion:
        prompt = total - completion  # the messages' count alone may leave out tools
    return Overflow(limit, prompt, completion)


def _first(pattern: re.Pattern[str], message: str) -> int | None:
    found = pattern.search(message)
    return None if found is None else next(_number(text) for text in found.groups() if text is not None)


def _number(text: str) -> int:
    return int(text.replace(",", ""))
