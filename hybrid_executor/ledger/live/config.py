"""Where the live half is, as ``settings`` has read it; a value without behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """One server, set of Sentinels or Cluster."""

    #: May hold a password.
    url: str = field(repr=False)
    #: What all keys begin with, in braces.
    prefix: str
    #: Of Sentinels: the name of the master. That in the URL goes first.
    master_name: str = ""
    #: What the Sentinels themselves want to know: a password, TLS.
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Besides those in the URL: the certificates of ``[celery] ssl_*``.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Longest wait for one answer, and for a connection.
    timeout_s: float = 5.0
