"""A settings file of ours as data and as a tree that knows its lines: YAML or JSON.

What is wrong with a file is said all at once, each problem with its line, and
in words of our own. Opens no file, and knows nothing of what a file is about:
``file`` (routes), ``clusters`` and ``pools`` do, and are its users.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from yaml.reader import ReaderError

from hybrid_executor.model.errors import ConfigError

Path = tuple[str | int, ...]
Problem = tuple[Path, str]
Tree = yaml.Node | None


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
#: One text will do for a list of one.
OneOrMore = Annotated[list[Text], BeforeValidator(as_list), Field(min_length=1)]
HttpAddress = Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")]


class Strict(BaseModel):
    """A mapping of known keys, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def refuse(source: str, tree: Tree, problems: Iterable[Problem], where: Callable[[Path], str]) -> None:
    """Raise ``ConfigError`` with every problem in the order of its lines, if there is one."""
    located = sorted((_line(tree, path), where(path), what) for path, what in problems)
    if located:
        raise ConfigError([f"{source}:{line}: {place}{what}" for line, place, what in located])


def read(text: str, source: str, kind: str) -> tuple[Any, Tree]:
    """Return the data and the tree that knows the lines; ``kind`` is what the file is called."""
    if source.endswith(".json"):
        return _read_json(text, source, kind)
    try:
        loader = yaml.SafeLoader(text)
        tree = loader.get_single_node()
        return (loader.construct_document(tree) if tree else None), tree
    except yaml.YAMLError as error:
        raise ConfigError([_syntax(error, text, source)]) from error
    except RecursionError as error:
        raise ConfigError([f"{source}:1: is nested too deeply to be a {kind}"]) from error
    except ValueError as error:  # what YAML takes for a date or a number and Python doesn't
        raise ConfigError([f"{source}:1: holds a value that can't be read: {error}"]) from error


def _read_json(text: str, source: str, kind: str) -> tuple[Any, Tree]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{source}:{error.lineno}: is not valid JSON: {error.msg}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{source}:1: is nested too deeply to be a {kind}"]) from error
    try:
        # JSON allows a tab only between tokens, where YAML doesn't allow one.
        return data, yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return data, None  # valid JSON that is no YAML: only the line numbers are lost


def _syntax(error: yaml.YAMLError, text: str, source: str) -> str:
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{source}:{line}: is not valid YAML: the character U+{error.character:04X} is not allowed"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or str(error)
    return f"{source}:{mark.line + 1 if mark else 1}: is not valid YAML: {what}"


def shape(
    data: Any,
    model: type[BaseModel],
    sentence: Callable[[str, Path, Mapping[str, Any]], str | None],
) -> Iterator[Problem]:
    """What pydantic finds: missing and unknown keys, wrong types and values.

    ``sentence`` has the first word on a problem, by its kind, path and context.
    """
    try:
        model.model_validate({} if data is None else data)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            path, kind, context = found["loc"], found["type"], found.get("ctx", {})
            yield path, sentence(kind, path, context) or _sentence(kind, path, found["msg"], context)


def _sentence(kind: str, path: Path, message: str, context: Mapping[str, Any]) -> str:
    if kind == "missing":
        name = path[-1]
        return f"'{name}' is missing; add it{' (version: 1)' if name == 'version' else ''}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    return _TYPES.get(kind, message[:1].lower() + message[1:])


def unknown(path: Path, model: type[BaseModel]) -> str:
    """What to say of a key that ``model`` does not have."""
    return f"unknown key '{path[-1]}'; remove it or correct its name (known: {', '.join(model.model_fields)})"


_TYPES = {
    "string_type": "must be text; put it in quotes",
    "list_type": "must be a list",
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "string_pattern_mismatch": "must be an address that begins with http:// or https://",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
}


def duplicates(tree: Tree, path: Path = ()) -> Iterator[Problem]:
    """Keys given twice: YAML and JSON would quietly take the last."""
    if isinstance(tree, yaml.SequenceNode):
        for index, child in enumerate(tree.value):
            yield from duplicates(child, (*path, index))
    elif isinstance(tree, yaml.MappingNode):
        seen = set()
        for key, child in tree.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                yield (*path, key.value), "is given twice; keep one"
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
                yield from duplicates(child, (*path, key.value))


def _line(tree: Tree, path: Path) -> int:
    """The line of the deepest node on the path; for a key, of the key and not of its value."""
    line = tree.start_mark.line if tree else 0
    for part in path:
        found = _child(tree, part)
        if found is None:
            break
        line, tree = found
    return line + 1


def _child(tree: Tree, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
        return tree.value[part].start_mark.line, tree.value[part]
    if isinstance(tree, yaml.MappingNode):
        for key, child in reversed(tree.value):
            if key.value == part:
                return key.start_mark.line, child
    return None
