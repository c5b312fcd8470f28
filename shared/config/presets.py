"""What is known about the usual providers, so that a configuration need only name them."""

from typing import Literal

from msgspec import Struct

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


PRESETS: dict[str, Preset] = {
    # Keys of the Kimi coding plans (api.kimi.com) are not valid here, nor the other way round: such a plan needs
    # `base_url = "https://api.kimi.com/coding/v1"`.
    "kimi": Preset(
        base_url="https://api.moonshot.ai/v1",
        key_envs=("KIMI_API_KEY", "MOONSHOT_API_KEY"),
        default_model="kimi-k2.6",
    ),
    "moonshot": Preset(
        base_url="https://api.moonshot.ai/v1",
        key_envs=("MOONSHOT_API_KEY",),
        default_model="kimi-k2.6",
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
    ),
    "gemini": Preset(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_envs=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        default_model="gemini-flash-latest",
        first_byte_timeout=180.0,
    ),
    "groq": Preset(
        base_url="https://api.groq.com/openai/v1",
        key_envs=("GROQ_API_KEY",),
        default_model="openai/gpt-oss-120b",
    ),
    "cerebras": Preset(
        base_url="https://api.cerebras.ai/v1",
        key_envs=("CEREBRAS_API_KEY",),
        default_model="gpt-oss-120b",
    ),
    "openrouter": Preset(
        base_url="https://openrouter.ai/api/v1",
        key_envs=("OPENROUTER_API_KEY",),
        default_model="openrouter/auto",
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
    ),
    "anthropic": Preset(
        dialect="anthropic",
        base_url="https://api.anthropic.com/v1",
        key_envs=("ANTHROPIC_API_KEY",),
        default_model="claude-sonnet-4-5",
    ),
    "echo": Preset(kind="echo", default_model="echo"),
}
"""In the order in which they become the default."""
