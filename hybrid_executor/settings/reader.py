"""Reads typed values out of Airflow's ``conf`` and collects what is wrong with them.

Every method returns a usable value: a bad one is replaced by its default and
noted in ``problems`` with its option, the environment variable that set it,
and what to do. Never prints the value of an option that may hold a secret.
Used by the other modules of ``settings``.
"""

import json
import os
from collections.abc import Callable
from configparser import ConfigParser
from configparser import Error as ParserError
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.exceptions import AirflowConfigException

from hybrid_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from airflow.configuration import AirflowConfigParser

N = TypeVar("N", int, float)
Entry = TypeVar("Entry")
Parse = Callable[[str], N]

_TRUE = frozenset({"t", "true", "1"})
_FALSE = frozenset({"f", "false", "0"})


def env_name(section: str, option: str) -> str:
    """The environment variable that sets an option."""
    return f"AIRFLOW__{section.upper()}__{option.upper()}".replace(".", "_").replace("-", "_")


class Reader:
    """One reading of the configuration."""

    def __init__(self, conf: "AirflowConfigParser") -> None:
        self._conf = conf
        self.problems: list[str] = []
        self.notes: list[str] = []

    def is_set(self, section: str, option: str, default: str) -> bool:
        """Whether the user chose it. A provider's default is always there, and Airflow writes it out.

        So the default found in a file may be one that ``airflow`` generated, and proves nothing.
        """
        if env_name(section, option) in os.environ:
            return True
        return ConfigParser.has_option(self._conf, section, option) and self.text(section, option) != default

    def options_set(self, section: str) -> list[str]:
        """The options of a section that the user set, known or not."""
        prefix = env_name(section, "")
        from_env = [name.removeprefix(prefix).lower() for name in os.environ if name.startswith(prefix)]
        from_file = ConfigParser.options(self._conf, section) if self._conf.has_section(section) else []
        return sorted({*from_env, *from_file})

    def name(self, section: str, option: str) -> str:
        """The option as the user knows it, and the variable where that is what set it."""
        variable = env_name(section, option)
        return f"[{section}] {option}" + (f" (set by {variable})" if variable in os.environ else "")

    def problem(self, section: str, option: str, what: str) -> None:
        """Note what is wrong with an option."""
        self.problems.append(f"{self.name(section, option)}: {what}")

    def text(self, section: str, option: str, default: str = "") -> str:
        """A text; empty counts as not set."""
        try:
            value = self._conf.get(section, option, fallback=None)
        except (AirflowConfigException, ParserError, ValueError) as error:
            self.problem(section, option, f"can't be read ({type(error).__name__}); correct it or remove it")
            return default
        return (value or "").strip() or default

    def listed(self, section: str, option: str, default: str = "") -> tuple[str, ...]:
        """A list separated by commas, without empty items and repetitions."""
        items = (item.strip() for item in self.text(section, option, default).split(","))
        return tuple(dict.fromkeys(item for item in items if item))

    def integer(self, section: str, option: str, default: int, *, least: int = 0) -> int:
        """A whole number."""
        return self._number(section, option, (default, least), _whole, "a whole number")

    def seconds(self, section: str, option: str, default: float, *, least: float = 0.0) -> float:
        """A number of seconds."""
        return self._number(section, option, (default, least), _finite, "a number of seconds")

    def _number(self, section: str, option: str, bounds: tuple[N, N], parse: Parse[N], kind: str) -> N:
        """``bounds`` are the default and the least."""
        default, least = bounds
        text = self.text(section, option)
        if not text:
            return default
        try:
            value = parse(text)
        except (ValueError, OverflowError):
            value = None
        if value is None or value < least:
            self.problem(
                section, option, f"must be {kind}, at least {least}, not {text!r}; {default} is used"
            )
            return default
        return value

    def boolean(self, section: str, option: str, default: bool) -> bool:
        """True or False, in the spellings that Airflow knows."""
        text = self.text(section, option).split("#")[0].strip().lower()
        if text and text not in _TRUE | _FALSE:
            self.problem(section, option, f"must be True or False, not {text!r}; {default} is used")
        return text in _TRUE if text in _TRUE | _FALSE else default

    def mapping(self, section: str, option: str) -> dict[str, Any]:
        """A JSON object; its content stays out of messages, because it may hold credentials."""
        text = self.text(section, option)
        if not text:
            return {}
        try:
            value = json.loads(text)
        except ValueError as error:
            self.problem(section, option, f"is not valid JSON ({error}); it is taken as empty")
            return {}
        if not isinstance(value, dict):
            self.problem(section, option, 'must be a JSON object such as {"key": 1}; it is taken as empty')
            return {}
        return value

    def file(
        self,
        section: str,
        option: str,
        path: str | None,
        parse: Callable[[str, str], tuple[Entry, ...]],
    ) -> tuple[Entry, ...]:
        """What ``parse`` makes of the text of the file that the option names, and of its path.

        Nothing where no file is named, or where it can't be read or is wrong.
        """
        if path is None:
            return ()
        try:
            return parse(Path(path).read_text(encoding="utf-8"), path)
        except OSError as error:
            self.problem(section, option, f"{path} can't be read ({error.strerror}); correct it")
        except UnicodeDecodeError:
            self.problem(section, option, f"{path} is not UTF-8 text; write it as UTF-8")
        except ConfigError as error:
            self.problems.extend(error.problems)
        return ()


def _whole(text: str) -> int:
    number = float(text)
    if number != int(number):
        raise ValueError(text)
    return int(number)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(text)
    return number
