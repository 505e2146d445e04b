"""Keeps the store's objects in SQLite, so that they survive a kill of the server.

Every change is committed before the request that made it is answered. The file
is not synced to the disk: a killed process loses nothing, a power cut may.
Used by ``server`` alone; ``NoJournal`` is for a store that need not survive.
"""

import json
import sqlite3
from pathlib import Path

from hybrid_executor.standalone.api.store import Key, Saved, Stored

#: A killed server's lock is gone with it; one that is ending needs a moment.
_LOCK_S = 3.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    plural TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    revision INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (plural, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deletions (plural TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
"""
_WRITE = "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)"
_ERASE = "DELETE FROM objects WHERE plural = ? AND namespace = ? AND name = ?"
_DELETED = "INSERT OR REPLACE INTO deletions VALUES (?, ?)"


class FolderInUse(Exception):
    """Another server has the state folder."""


class NoJournal:
    """Keeps nothing."""

    def write(self, plural: str, stored: Stored) -> None:
        """Forget it."""

    def erase(self, plural: str, key: Key, revision: int) -> None:
        """Forget that too."""

    def load(self) -> Saved:
        """An empty cluster."""
        return Saved(0, {}, [])


class SqliteJournal:
    """One file, one writer: a second server on the same file is refused by a lock."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_S)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(_SCHEMA)
        except sqlite3.OperationalError as locked:
            self._db.close()
            raise FolderInUse(f"{path}: {locked}; does another server use this folder?") from locked

    def write(self, plural: str, stored: Stored) -> None:
        """Keep this state of an object."""
        self._db.execute(_WRITE, (plural, *stored.key, stored.revision, stored.raw))

    def erase(self, plural: str, key: Key, revision: int) -> None:
        """Forget an object, at that revision."""
        self._db.execute("BEGIN")
        self._db.execute(_ERASE, (plural, *key))
        self._db.execute(_DELETED, (plural, revision))
        self._db.execute("COMMIT")

    def load(self) -> Saved:
        """Everything that was kept, in the order in which it was written."""
        rows = self._db.execute(
            "SELECT plural, namespace, name, revision, body FROM objects ORDER BY revision"
        )
        objects = [
            (plural, Stored((namespace, name), revision, json.loads(body), body))
            for plural, namespace, name, revision, body in rows
        ]
        last: dict[str, int] = dict(self._db.execute("SELECT plural, revision FROM deletions"))
        for plural, stored in objects:
            last[plural] = max(last.get(plural, 0), stored.revision)
        return Saved(max(last.values(), default=0), last, objects)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
