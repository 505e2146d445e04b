"""Reads the text of a pools file: which Celery workers there are, and which queues each of them serves.

    version: 1
    pools:
      light:                         # as its Deployment's pods are labelled
        queues: [default, light]     # or one name; no other pool serves them
        concurrency: 16              # task slots of one worker
        min_replicas: 0              # optional, 0
        max_replicas: 10             # optional, 10
      gpu-host:
        queues: cuda
        concurrency: 2

YAML or JSON, version 1. Says everything that is wrong at once, each problem
with its line; opens no file. It routes nothing: where a task goes is said by
routes, and a pool only says who takes what goes to Celery. Called by
``hybrid_executor.settings``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from hybrid_executor.routing.document import (
    OneOrMore,
    Path,
    Problem,
    Strict,
    as_list,
    duplicates,
    read,
    refuse,
    shape,
    unknown,
)

#: A pool's name is a label's value, and part of a Deployment's name beside that of the release.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")

NAME_IN_WORDS = "at most 40 lower case letters, digits and dashes, a letter first and no dash last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Workers that are alike, scaled together, and alone in serving their queues."""

    name: str
    queues: tuple[str, ...]
    #: Tasks that one worker runs at a time.
    concurrency: int
    min_replicas: int = 0
    max_replicas: int = 10


class _Pool(Strict):
    queues: OneOrMore
    concurrency: Annotated[int, Field(ge=1)]
    min_replicas: Annotated[int, Field(ge=0)] = 0
    max_replicas: Annotated[int, Field(ge=1)] = 10


class _File(Strict):
    version: Literal[1]
    pools: dict[str, _Pool]


def parse_pools(text: str, source: str) -> tuple[Pool, ...]:
    """Return the pools of a file, in its order; raises ``ConfigError`` with every problem.

    ``source`` is the file's path, as it stands in messages.
    """
    data, tree = read(text, source, "pools file")
    problems = [*shape(data, _File, _sentence), *_meaning(data), *duplicates(tree)]
    refuse(source, tree, problems, _where)
    return tuple(
        Pool(
            name=name,
            queues=tuple(dict.fromkeys(one.queues)),
            concurrency=one.concurrency,
            min_replicas=one.min_replicas,
            max_replicas=one.max_replicas,
        )
        for name, one in _File.model_validate(data).pools.items()
    )


def _sentence(kind: str, path: Path, context: Mapping[str, Any]) -> str | None:
    if kind == "extra_forbidden":
        model: type[BaseModel] = _Pool if path[:1] == ("pools",) else _File
        return unknown(path, model)
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    return None


def _meaning(data: Any) -> Iterator[Problem]:
    """What no schema says: names, bounds that belong together, and that a queue has one pool."""
    pools = data.get("pools") if isinstance(data, dict) else None
    served: dict[str, str] = {}
    for name, pool in pools.items() if isinstance(pools, dict) else ():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield (
                ("pools", str(name)),
                f"must be named by {NAME_IN_WORDS}",
            )
        if isinstance(pool, dict):
            yield from _bounds(str(name), pool)
            yield from _overlap(str(name), pool, served)


def _bounds(name: str, pool: Mapping[str, Any]) -> Iterator[Problem]:
    least, most = pool.get("min_replicas", 0), pool.get("max_replicas", 10)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        key = "min_replicas" if "min_replicas" in pool else "max_replicas"
        yield ("pools", name, key), f"min_replicas is {least} and max_replicas {most}; it must not be more"


def _overlap(name: str, pool: Mapping[str, Any], served: dict[str, str]) -> Iterator[Problem]:
    queues = as_list(pool.get("queues"))
    for queue in dict.fromkeys(filter(_is_text, queues)) if isinstance(queues, list) else ():
        other = served.setdefault(queue, name)
        if other != name:
            yield (
                ("pools", name, "queues"),
                f"{queue!r} is served by pool {other} too; leave it to one of them",
            )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _where(path: Path) -> str:
    """``pool light, concurrency: `` for what lies in a pool, the key itself for what lies above."""
    if path[:1] == ("pools",) and len(path) > 1:
        inside = ".".join(str(part) for part in path[2:])
        return f"pool {path[1]}, {inside}: " if inside else f"pool {path[1]}: "
    return f"{'.'.join(str(part) for part in path)}: " if path else ""
