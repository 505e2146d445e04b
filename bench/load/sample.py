"""What servers and processes say of themselves, once a second. Reads only; decides nothing.

All numbers are as they are counted, from the beginning on; ``report`` makes
differences of them.
"""

import base64
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
import sqlalchemy as sa
import yaml

from bench.load.apicalls import calls_of
from bench.meter import _cpu_s_of
from hybrid_executor.standalone.stack.process import descendants

#: Of these what is written is counted.
TABLES = ("hybrid_submission", "hybrid_flower", "hybrid_lease", "task_instance")
#: What a connection says of itself, and this file.
_NOBODYS = frozenset({"info", "auth", "hello", "select", "ping", "scan", "memory|usage", "flushdb"})
#: The proportional set size takes the kernel a while.
MEMORY_EVERY_S = 5.0

_WRITTEN = sa.text("""
SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del
  FROM pg_stat_user_tables WHERE relname = ANY(:tables)
""")
_DATABASE = sa.text("""
SELECT xact_commit, tup_inserted, tup_updated, tup_deleted
  FROM pg_stat_database WHERE datname = current_database()
""")


@dataclass
class Sampler:
    """Servers of one run, and the processes that are looked at, by name."""

    engine: sa.Engine
    valkey: redis.Redis
    kubeconfig: Path
    pids: Mapping[str, int]
    _memory: dict[str, float] | None = None
    _memory_at_s: float = 0.0

    def sample(self) -> dict[str, Any]:
        """All of it, now."""
        now_s = time.monotonic()
        if self._memory is None or now_s - self._memory_at_s >= MEMORY_EVERY_S:
            self._memory_at_s, self._memory = now_s, self.memory_mib()
        return {
            "at": time.time(),
            "cpu_s": {name: sum(map(_cpu_s_of, family(pid))) for name, pid in self.pids.items()},
            "pss_mib": self._memory,
            "calls": dict(self.calls()),
            "commands": self.commands(),
            "valkey_bytes": int(self.valkey.info("memory")["used_memory"]),
            **self.database(),
        }

    def settle(self) -> None:
        """The next sample looks at memory anew."""
        self._memory = None

    def memory_mib(self) -> dict[str, float]:
        """Proportional set size by name, with all that descends from each."""
        return {name: sum(map(_pss_mib, family(pid))) for name, pid in self.pids.items()}

    def calls(self) -> Counter[str]:
        """What the API server has been asked."""
        return calls_of(asked(self.kubeconfig, "/metrics"))

    def commands(self) -> dict[str, int]:
        """What the server has been told, by command; those in scripts as well."""
        stats: Mapping[str, Mapping[str, Any]] = self.valkey.info("commandstats")
        named = {name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in stats.items()}
        return {
            name: calls
            for name, calls in named.items()
            if name not in _NOBODYS and not name.startswith("client|")
        }

    def database(self) -> dict[str, Any]:
        """Rows written, and transactions."""
        with self.engine.connect() as connection:
            tables = {
                name: {"inserted": inserted, "updated": updated, "in_place": hot, "deleted": deleted}
                for name, inserted, updated, hot, deleted in connection.execute(
                    _WRITTEN, {"tables": list(TABLES)}
                )
            }
            commits, inserted, updated, deleted = connection.execute(_DATABASE).one()
        written = {"commits": commits, "inserted": inserted, "updated": updated, "deleted": deleted}
        return {"tables": tables, "database": written}


def family(pid: int) -> set[int]:
    """A process and all that descends from it."""
    return {pid, *descendants(pid)}


def _pss_mib(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_full_info().pss) / 2**20
    except psutil.Error:
        return 0.0


def asked(kubeconfig: Path, path: str) -> str:
    """What an API server answers to a GET, as a kubeconfig's user."""
    said = yaml.safe_load(kubeconfig.read_text())
    cluster, user = said["clusters"][0]["cluster"], said["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    headers = {"Authorization": f"Bearer {user['token']}"}
    request = urllib.request.Request(cluster["server"] + path, headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, context=context) as answer:  # noqa: S310
        return str(answer.read().decode())


def keys_by_kind(valkey: redis.Redis) -> dict[str, dict[str, int]]:
    """How many keys there are of each kind, and their bytes; looks at all of them."""
    found: dict[str, dict[str, int]] = {}
    names: list[bytes] = list(valkey.scan_iter(count=1000))
    for start in range(0, len(names), 1000):
        some = names[start : start + 1000]
        pipeline = valkey.pipeline(transaction=False)
        for name in some:
            pipeline.memory_usage(name)
        for name, size in zip(some, pipeline.execute(), strict=True):
            of = found.setdefault(kind_of(name.decode(errors="replace")), {"keys": 0, "bytes": 0})
            of["keys"] += 1
            of["bytes"] += int(size or 0)
    return found


#: Of the live half, by what follows its prefix; and Celery's.
_KINDS = {
    "}:attempt:": "attempt",
    "}:start:": "start",
    "}:inflight:": "inflight",
    "}:index:": "index",
    "}:transitions": "transitions",
    "celery-task-meta-": "result",
}


def kind_of(key: str) -> str:
    """What a key is of."""
    return next((kind for part, kind in _KINDS.items() if part in key), "other")
