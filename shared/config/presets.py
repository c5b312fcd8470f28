"""What is known about the usual providers, so that a configuration need only name them."""

from typing import Literal

from msgspec import Struct

from shared.config.types import Translation
from shared.records import Dialect


class Preset(Struct, frozen=True, kw_only=True):
    """The defaults of one provider; a file's `[providers.<name>]` overrides each."""

    kind: Literal["http", "echo"] = "http"
    dialect: Dialect = "openai"
    base_url: str = ""
    key_envs: tuple[str, ...] = ()
    """The variables its key is looked for in, the first that is set wins; none: no key is sent."""
    default_model: str
    """What `default` means where no file says so; a rolling alias where the provider has one."""
    ask_usage: bool = True
    first_byte_timeout: float | None = None
    """For those that think longer than others before the first byte; seconds."""
    translation: Translation = Translation()
    """What it understands of a request in the other dialect, as long as it is asked in the preset's."""


# A thinking Kimi answers an earlier tool call without `reasoning_content` with 400 (new-api#3121); not all of its
# models know more of structured answers than JSON mode.  Since K2.5 each has one temperature and one top_p, and answers
# others with 400, "only 1 is allowed for this model" (cherry-studio#14573).
_KIMI = Translation(
    thinking="thinking",
    needs_thinking=True,
    output_format="json_object",
    partial=True,
    sampling=False,
    web_search="builtin",
)
# They answer a message that holds `reasoning_content` with 400 or 422 (litellm#30835, jan#8136, vercel/ai#15042).
_NO_THOUGHT = Translation(replay_thinking="off")


PRESETS: dict[str, Preset] = {
    # Keys of the Kimi coding plans (api.kimi.com) are not valid here, nor the other way round: such a plan needs
    # `base_url = "https://api.kimi.com/coding/v1"`, `dialect = "anthropic"`.
    "kimi": Preset(
        base_url="https://api.moonshot.ai/v1",
        key_envs=("KIMI_API_KEY", "MOONSHOT_API_KEY"),
        default_model="kimi-k2.6",
        translation=_KIMI,
    ),
    "moonshot": Preset(
        base_url="https://api.moonshot.ai/v1",
        key_envs=("MOONSHOT_API_KEY",),
        default_model="kimi-k2.6",
        translation=_KIMI,
    ),
    "nvidia": Preset(
        base_url="https://integrate.api.nvidia.com/v1",
        key_envs=("NVIDIA_API_KEY",),
        default_model="openai/gpt-oss-120b",
        first_byte_timeout=150.0,
    ),
    "mistral": Preset(
        base_url="https://api.mistral.ai/v1",
        key_envs=("MISTRAL_API_KEY",),
        default_model="mistral-large-latest",
        # It answers `stream_options.include_usage` with 422 and sends the usage unasked (openai-agents-python#442).
        ask_usage=False,
        translation=_NO_THOUGHT,
    ),
    "gemini": Preset(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_envs=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        default_model="gemini-flash-latest",
        first_byte_timeout=180.0,
        # Gemini 3 answers an earlier tool call without its signature with 400; Google's documentation, "Thought
        # signatures", has a word for calls that have none.
        translation=Translation(thinking="effort", replay_thinking="off", call_signatures=True),
    ),
    "groq": Preset(
        base_url="https://api.groq.com/openai/v1",
        key_envs=("GROQ_API_KEY",),
        default_model="openai/gpt-oss-120b",
        translation=_NO_THOUGHT,
    ),
    "cerebras": Preset(
        base_url="https://api.cerebras.ai/v1",
        key_envs=("CEREBRAS_API_KEY",),
        default_model="gpt-oss-120b",
        translation=_NO_THOUGHT,
    ),
    "openrouter": Preset(
        base_url="https://openrouter.ai/api/v1",
        key_envs=("OPENROUTER_API_KEY",),
        default_model="openrouter/auto",
        translation=Translation(
            thinking="reasoning",
            replay_thinking="reasoning",
            documents="file",
            cache_control=True,
            web_search="plugin",
        ),
    ),
    "siliconflow": Preset(
        base_url="https://api.siliconflow.com/v1",
        key_envs=("SILICONFLOW_API_KEY",),
        default_model="deepseek-ai/DeepSeek-V3.2",
    ),
    "openai": Preset(
        base_url="https://api.openai.com/v1",
        key_envs=("OPENAI_API_KEY",),
        default_model="gpt-5-mini",
        translation=Translation(
            thinking="effort",
            replay_thinking="off",
            max_tokens="max_completion_tokens",
            documents="file",
            sampling=False,  # models that reason know their own values only
        ),
    ),
    "anthropic": Preset(
        dialect="anthropic",
        base_url="https://api.anthropic.com/v1",
        key_envs=("ANTHROPIC_API_KEY",),
        default_model="claude-sonnet-4-5",
        # It checks the signature of every thought, and other models don't sign theirs.
        translation=Translation(replay_thinking="off", web_search="tool"),
    ),
    "echo": Preset(kind="echo", default_model="echo"),
}
"""In the order in which they become the default."""
