"""Connects to the server that holds the live half: alone, behind Sentinels, or a Cluster; plain or TLS.

redis-py does the work; this reads the URL, which says which of them it is, and
translates what redis-py raises into ``LiveUnavailable``. Opens nothing before
the first command, but for a Cluster, whose nodes have to be asked. Nothing
that it says holds the URL. ``settings`` asks ``problem_of``; ``store`` and
``reader`` open.

    redis://  rediss://          one server; rediss is TLS
    unix://                      one server, by its socket
    sentinel://  sentinels://    host:port of each Sentinel, as Celery takes them; ``?master_name=``
    cluster://  clusters://      any node of a Cluster
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.model.errors import LiveUnavailable

SENTINEL_PORT = 26379
#: What each scheme is to redis-py.
_SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "sentinel": "redis",
    "sentinels": "rediss",
    "cluster": "redis",
    "clusters": "rediss",
}

#: redis-py types its answers for both of its ways at once, so they are taken as they come.
Client = Any
#: What ``Redis`` itself does not take.
_OURS = ("connection_class", "path", "master_name")


def open_client(config: LiveConfig) -> Client:
    """A client of its own connections. Raises ``LiveUnavailable``, for a wrong URL too."""
    if problem := problem_of(config):
        raise LiveUnavailable(problem)
    kind = _scheme(config.url).rstrip("s")
    with translated():
        if kind == "sentinel":
            return _by_sentinels(config)
        given = _arguments(config.url, config)
        if kind == "cluster":
            given |= {"ssl": given.pop("connection_class", None) is SSLConnection}
            given.pop("db", None)
            return RedisCluster(**given)
        tls = given.pop("connection_class", None) is SSLConnection
        if path := given.pop("path", None):
            given["unix_socket_path"] = path
        return Redis(**given, ssl=tls) if tls else Redis(**given)


def problem_of(config: LiveConfig) -> str | None:
    """What is wrong with the URL and what to do, without quoting it; connects nowhere."""
    scheme = _scheme(config.url)
    if scheme not in _SCHEMES:
        return f"must begin with one of {', '.join(f'{name}://' for name in _SCHEMES)}"
    try:
        urls = config.url.split(";") if scheme.startswith("sentinel") else [config.url]
        arguments = [_arguments(url, config) for url in urls]
        Redis(**{name: value for name, value in arguments[0].items() if name not in _OURS})
    except (ValueError, TypeError, RedisError, AttributeError):
        return (
            "is no URL that redis-py takes: check the port, percent-encode special characters of the"
            " password, and name only parameters that redis.Redis has"
        )
    if scheme != "unix" and not all(argument.get("host") for argument in arguments):
        return "names no host"
    if scheme.startswith("sentinel") and not _master_name(config):
        return "names no master: add ?master_name=NAME"
    return None


def _by_sentinels(config: LiveConfig) -> Client:
    urls = config.url.split(";")
    # Celery's form: each Sentinel a URL; the first says who we are at the server itself.
    first, *others = [_arguments(url, config) for url in urls]
    places = [(one["host"], one.get("port", SENTINEL_PORT)) for one in (first, *others)]
    tls = first.pop("connection_class", None) is SSLConnection or "ssl_cert_reqs" in first
    for name in ("host", "port", "master_name"):
        first.pop(name, None)
    patience = {k: v for k, v in first.items() if k.startswith("socket_") or k == "retry"}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        places, sentinel_kwargs={**patience, **config.sentinel_options}
    )
    return sentinels.master_for(_master_name(config), ssl=tls, **first)  # type: ignore[no-untyped-call]


def _master_name(config: LiveConfig) -> str:
    for url in config.url.split(";"):
        if name := _arguments(url, config).get("master_name"):
            return str(name)
    return config.master_name


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def _arguments(url: str, config: LiveConfig) -> dict[str, Any]:
    """What redis-py reads out of the URL, with timeouts, and without retries: the writer has its own."""
    scheme, _, rest = url.partition("://")
    known = _SCHEMES[scheme.lower()]
    # Its own message quotes what it takes for the port, which may be the end of a password.
    urlsplit(f"{known}://{rest}").port  # noqa: B018
    defaults: Mapping[str, Any] = {
        "socket_timeout": config.timeout_s,
        "socket_connect_timeout": config.timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
    }
    arguments: dict[str, Any] = {**config.options, **_parsed(f"{known}://{rest}")}
    if any(name.startswith("ssl_") for name in config.options):
        arguments["connection_class"] = SSLConnection
    return {**defaults, **arguments}


def _parsed(url: str) -> dict[str, Any]:
    return dict(parse_url(url))  # type: ignore[no-untyped-call]


@contextmanager
def translated() -> Iterator[None]:
    """What redis-py raises, as ``LiveUnavailable`` in one line; its words hold neither URL nor values."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError) as error:
        lines = str(error).strip().splitlines()
        name = type(error).__name__
        raise LiveUnavailable(f"{name}: {lines[0]}" if lines else name) from error
