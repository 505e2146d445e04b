"""Passwords and keys of the embedded stack: random, made once, kept in files that only their owner reads."""

import secrets
from pathlib import Path


def kept_secret(path: Path, make: str | None = None) -> str:
    """Return the secret in ``path``, writing ``make`` (or 32 random characters) there first if it is new."""
    if not path.exists():
        write_private(path, make or secrets.token_urlsafe(24))
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` with ``text``; no other user can read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text)
    draft.replace(path)
