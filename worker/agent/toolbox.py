"""The tools of a worker's agent, loaded once for each configuration."""

from collections.abc import Mapping
from typing import Any

from shared.config import Agent
from shared.errors import ConfigError
from shared.logs import get_logger
from worker.agent.tools import Tool, definitions, load_tools
from worker.asgi import HttpError
from worker.dialects import neutral


class Toolbox:
    """See the module."""

    def __init__(self) -> None:
        self._settings: Agent | None = None
        self._tools: Mapping[str, Tool[Any]] = {}
        self._problem: str | None = None
        self.definitions: tuple[neutral.Tool, ...] = ()
        """What a model is told of them."""

    def configure(self, settings: Agent) -> None:
        """The tools of these settings; runs the user's own file.  None while the agent is off."""
        if not settings.enabled:
            self._settings, self._tools, self.definitions, self._problem = None, {}, (), None
        elif settings != self._settings or settings.tools_file is not None:  # the file may have changed
            self._settings, self._problem = settings, None
            try:
                tools = load_tools(settings)
            except ConfigError as error:
                self._tools, self.definitions, self._problem = {}, (), str(error)
                get_logger().error("agent_tools_unusable", problem=self._problem)
            else:
                self._tools, self.definitions = tools, definitions(tools)

    @property
    def tools(self) -> Mapping[str, Tool[Any]]:
        """By name.  `HttpError` if they can't be loaded, with the reason."""
        if self._problem is not None:
            raise HttpError(503, f"the agent's tools can't be loaded: {self._problem}", code="agent_misconfigured")
        return self._tools
