"""A TOML text, decoded against the schema, that knows where each of its keys stands.

What `tomllib` and msgspec say about a bad text becomes one sentence with file, line, key and fix.
"""

import re
import tomllib

import msgspec

from shared.config.faults import find_faults
from shared.config.lines import Path, key_lines
from shared.config.schema import File
from shared.errors import ConfigError

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class Document:
    """`file` is the decoded text, or an empty one; `fault` and `where` speak of places in it."""

    def __init__(self, text: str, source: str | None) -> None:
        """Raises `ConfigError` for what is not TOML, or not of the schema's shape."""
        self.source = source
        self._name = source or "configuration"
        self._lines: dict[Path, int] = {}
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._syntax_error(error, text) from None
        self._lines = key_lines(text)  # recurses less deeply than `tomllib` just did
        try:
            self.file = msgspec.convert(data, File)
        except msgspec.ValidationError as error:
            path, sentence = next(find_faults(data, File, ()), ((), str(error)))
            raise self.fault(path, sentence) from None

    def fault(self, path: Path, sentence: str) -> ConfigError:
        """The error to raise about the key at `path`: `file:line: sentence`."""
        return ConfigError(f"{self.where(path)}{sentence}")

    def where(self, path: Path) -> str:
        """`file:line: ` of the key, or of the nearest table around it; `file: ` where no line is known."""
        for length in range(len(path), 0, -1):
            if line := self._lines.get(path[:length]):
                return f"{self._name}:{line}: "
        return f"{self._name}: "

    def _syntax_error(self, error: ValueError | RecursionError, text: str) -> ConfigError:
        if not isinstance(error, tomllib.TOMLDecodeError):
            deep = isinstance(error, RecursionError)
            what = "its values are nested too deeply" if deep else "a number in it has too many digits"
            return ConfigError(f"{self._name}: this is not usable TOML: {what}")
        message = str(error)
        place = ""
        if match := _POSITION.search(message):
            place = f":{match[1] or text.count(chr(10)) + 1}"
            message = message[: match.start()]
        return ConfigError(f"{self._name}{place}: this is not valid TOML: {message[:1].lower()}{message[1:]}")
