"""Keeps the pod templates: read when the routes are, and again only when a file has changed.

A look at a file is one ``stat``, and there is at most one of them in
``LOOK_EVERY_S`` however many pods are made. A file that has become wrong is
refused, said once in the log, and the last good version stays in use; where
there never was one, each pod that needs it fails with ``InvalidPod``. Lays a
route's ``pod`` defaults over its template, and never anything else. Called by
the pod maker in the backend's thread, and by the executor when it has read
the routes; ``airflow hybrid routes`` and ``doctor`` keep one of their own.
"""

import json
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Protocol

from hybrid_executor.model.attempt import BackendName, Route
from hybrid_executor.model.errors import ConfigError, InvalidPod
from hybrid_executor.pods.overlay import with_defaults
from hybrid_executor.pods.template import MINIMAL_TEMPLATE, PodTemplate, parse_template

log = logging.getLogger("hybrid_executor.kubernetes")

#: How old the last look at a file may be, seconds.
LOOK_EVERY_S = 1.0
#: Files that are remembered. A task may name any file of its own; the bound is against generated names.
KEPT_MAX = 1024


class Files(Protocol):
    """Where templates lie; an ``OSError`` says why one can't be had."""

    def stamp(self, path: str) -> Hashable:
        """What differs once the file has changed."""

    def read(self, path: str) -> str:
        """Its text; ``UnicodeDecodeError`` where it is none."""


class Disk:
    """Files of this machine; follows the links that a mounted ConfigMap is made of."""

    def stamp(self, path: str) -> Hashable:
        stat = Path(path).stat()
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def read(self, path: str) -> str:
        return Path(path).read_text(encoding="utf-8")


@dataclass(slots=True)
class _Kept:
    """One file as it was last seen."""

    stamp: Hashable = None
    looked_s: float = float("-inf")
    #: The newest version that was in order; None if none ever was.
    good: PodTemplate | None = None
    problems: tuple[str, ...] = ()
    #: By rule and its defaults: the template with these laid over it, of this version.
    laid_over: dict[tuple[str, str], PodTemplate] = field(default_factory=dict)


class Templates:
    """The templates of one executor; safe to use from several threads."""

    def __init__(
        self, default: str = "", files: Files | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``default`` is ``[kubernetes_executor] pod_template_file``; empty means the minimal pod."""
        self._default = default
        self._files = files or Disk()
        self._clock = clock
        self._lock = Lock()
        self._kept: dict[str, _Kept] = {"": _Kept(good=parse_template(MINIMAL_TEMPLATE, "the minimal pod"))}

    def load(self, routes: Iterable[Route]) -> list[str]:
        """Read and check what these routes use; returns what is wrong with it, one line each."""
        routes = [route for route in routes if route.backend is BackendName.KUBERNETES]
        with self._lock:
            files = (self._look(path) for path in (self._default, *map(self._path, routes)))
            problems = list(dict.fromkeys(problem for kept in files for problem in kept.problems))
            unfit = dict.fromkeys(line for route in routes for line in self._unfit(route))
        if new := [line for line in unfit if line not in problems]:
            log.error("the pods of these routes fail as InvalidPod:\n%s", "\n".join(new))
        return [*problems, *new]

    def problems_of(self, path: str) -> tuple[str, ...]:
        """What is wrong with a file as it is now, one line each."""
        with self._lock:
            return self._look(path).problems

    def of_route(self, route: Route) -> PodTemplate:
        """The route's template with its defaults laid over it; raises ``InvalidPod``."""
        return self._or_invalid(lambda: self._laid_over(route))

    def at(self, path: str) -> PodTemplate:
        """The template of a file, as it is; raises ``InvalidPod``."""
        return self._or_invalid(lambda: self._good(path)[1])

    def _or_invalid(self, find: Callable[[], PodTemplate]) -> PodTemplate:
        with self._lock:
            try:
                return find()
            except ConfigError as error:
                raise InvalidPod(f"pod template: {'; '.join(error.problems)}") from error

    def _path(self, route: Route) -> str:
        return route.pod_template_file or self._default

    def _laid_over(self, route: Route) -> PodTemplate:
        kept, good = self._good(self._path(route))
        if not route.pod_defaults:
            return good
        key = (route.rule, json.dumps(route.pod_defaults, default=str))
        if key not in kept.laid_over:
            kept.laid_over[key] = with_defaults(good, route.pod_defaults, route.rule)
        return kept.laid_over[key]

    def _unfit(self, route: Route) -> Sequence[str]:
        """Why no pod of this route can be built."""
        try:
            self._laid_over(route)
        except ConfigError as error:
            return error.problems
        return ()

    def _good(self, path: str) -> tuple[_Kept, PodTemplate]:
        kept = self._look(path)
        if kept.good is None:
            raise ConfigError(kept.problems)
        return kept, kept.good

    def _look(self, path: str) -> _Kept:
        """What is known of a file, after a look at it if the last one was long ago."""
        kept = self._kept.get(path)
        if kept is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.pop(next(known for known in self._kept if known))
            kept = self._kept[path] = _Kept()
        now_s = self._clock()
        if path and now_s - kept.looked_s >= LOOK_EVERY_S:
            kept.looked_s = now_s
            self._refresh(path, kept)
        return kept

    def _refresh(self, path: str, kept: _Kept) -> None:
        stamp: Hashable = None
        problems: tuple[str, ...] = ()
        try:
            stamp = self._files.stamp(path)
            if stamp == kept.stamp:
                return
            template = parse_template(self._files.read(path), path)
        except OSError as error:
            stamp = None  # it may pass without a change of the file
            problems = (f"{path}: can't be read ({error.strerror or error})",)
        except UnicodeDecodeError:
            problems = (f"{path}: is not UTF-8 text",)
        except ConfigError as error:
            problems = error.problems
        else:
            kept.good, kept.laid_over = template, {}
        # Of before the text was read: a change in between is seen at the next look.
        kept.stamp = stamp
        if problems != kept.problems:
            _tell(path, kept, problems)
        kept.problems = problems


def _tell(path: str, kept: _Kept, problems: tuple[str, ...]) -> None:
    if not problems:
        log.info("pod template %s is in order again", path)
    elif kept.good:
        log.error("pod template refused, its last good version stays in use:\n%s", "\n".join(problems))
    else:
        log.error("pod template refused, what needs it fails as InvalidPod:\n%s", "\n".join(problems))
