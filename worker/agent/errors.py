"""What a tool, or what it works with, raises for the model to read."""


class ToolError(Exception):
    """What went wrong, in a sentence that the model can act on.  It becomes the tool's result."""


class NotFound(ToolError):
    """There is no such file or folder."""
