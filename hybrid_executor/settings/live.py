"""Where the ledger's live half is: ``[hybrid_executor] live_url`` and ``live_prefix``.

By default it is on the Celery broker's server, where that is Redis or Valkey,
with the certificates and the master's name that the broker has. Called by
``settings.load``, and by who reads the live half and nothing else. Nothing
here connects, and no message holds a URL.
"""

import json
from collections.abc import Mapping
from typing import Any

from airflow.configuration import conf

from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.schema import is_prefix
from hybrid_executor.options import SECTION, default
from hybrid_executor.settings.backends import deployment
from hybrid_executor.settings.reader import Reader

#: What the option says besides a URL.
BROKER, OFF = "broker", "off"
BROKER_SCHEMES = ("redis://", "rediss://", "sentinel://")
TRANSPORT = "celery_broker_transport_options"
#: The Celery provider's own, which Airflow has where nothing is set.
_BROKER_DEFAULT = "redis://redis:6379/0"


def load_live() -> LiveConfig | None:
    """Of this process's own configuration; None where it is off, or wrong."""
    return live_config(Reader(conf))


def live_config(read: Reader) -> LiveConfig | None:
    """None where it is off, where the broker is no Redis, and where the URL is wrong."""
    url = read.text(SECTION, "live_url", default("live_url"))
    if url.lower() == OFF:
        return None
    if url.lower() != BROKER:
        return _checked(read, LiveConfig(url=url, prefix=_prefix(read)))
    url = read.text("celery", "broker_url", _BROKER_DEFAULT)
    if not url.startswith(BROKER_SCHEMES):
        return None
    return LiveConfig(
        url=url,
        prefix=_prefix(read),
        master_name=read.text(TRANSPORT, "master_name"),
        sentinel_options=_sentinel_options(read),
        options=_certificates(read),
    )


def _checked(read: Reader, config: LiveConfig) -> LiveConfig | None:
    # redis-py takes its time to import, and most have no URL of their own here.
    from hybrid_executor.ledger.live.connection import problem_of  # noqa: PLC0415

    if problem := problem_of(config):
        read.problem(
            SECTION,
            "live_url",
            f"{problem}; correct it, or set '{BROKER}' or '{OFF}'. The live half of the ledger is off",
        )
        return None
    return config


def _prefix(read: Reader) -> str:
    """The database's own name by default: Airflows that share a server share no database."""
    prefix = read.text(SECTION, "live_prefix")
    if prefix and not is_prefix(prefix):
        read.problem(
            SECTION,
            "live_prefix",
            "must be at most 64 letters, digits, dots, hyphens, underscores and colons; the default is used",
        )
        prefix = ""
    return prefix or f"hybrid-{deployment(read)}"


def _sentinel_options(read: Reader) -> Mapping[str, Any]:
    """As the Celery provider reads it; the provider itself complains of what is no JSON."""
    try:
        options = json.loads(read.text(TRANSPORT, "sentinel_kwargs", "{}"))
    except ValueError:
        return {}
    return options if isinstance(options, dict) else {}


def _certificates(read: Reader) -> Mapping[str, Any]:
    """``[celery] ssl_*`` as the provider hands them to the broker's connection."""
    if not read.boolean("celery", "ssl_active", False):
        return {}
    options = {"ssl_cert_reqs": "required", "ssl_ca_certs": read.text("celery", "ssl_cacert")}
    if read.boolean("celery", "ssl_mutual_tls", True):
        options["ssl_keyfile"] = read.text("celery", "ssl_key")
        options["ssl_certfile"] = read.text("celery", "ssl_cert")
    return {name: value for name, value in options.items() if value}
