"""``airflow hybrid workers``: the Celery workers, their load and how they stand; and a drain by hand.

``workforce`` asks the workers and their pods, and the ledger is asked for what
runs on workers that say nothing. Only ``drain`` changes anything.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor import workforce
from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.roster import Member, Roster
from hybrid_executor.cli.ledger import history, reading
from hybrid_executor.cli.routes import show, tell
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.worker import pod_of
from hybrid_executor.settings import load_settings
from hybrid_executor.workforce import TIMEOUT_S

#: Between two looks at a worker that drains.
LOOK_AGAIN_S = 1.5
#: How long it may say nothing at all: some ten looks.
SILENCE_S = 30.0


@suppress_logs_and_warning
@providers_configuration_loaded
def workers(args: Namespace) -> None:
    """Print one row per worker; exits with 1 if somebody does not answer."""
    settings = load_settings()
    force = workforce.look_at(settings)
    with reading():
        running = {
            name: count
            for (backend, name), count in history().places().items()
            if backend is BackendName.CELERY
        }
    show(list(workforce.rows(force, running, settings.pools)), args.output)
    if force.problems:
        raise SystemExit("\n".join(force.problems))


@suppress_logs_and_warning
@providers_configuration_loaded
def drain(args: Namespace) -> None:
    """Tell one worker to take nothing more; with ``--wait`` until it has nothing at hand."""
    settings = load_settings()
    with closing(Roster(provider_app(), replace(settings.celery, read_timeout_s=TIMEOUT_S))) as roster:
        try:
            name, member = _named(roster.look(), args.worker)
            if not roster.drain(name, member):
                raise SystemExit(f"{name} did not say that it drains; look at it again with `workers`")
            left = "did not say what it has" if member.at_hand is None else f"has {member.at_hand}"
            print(f"{name} takes nothing more and {left} left", flush=True)
            if args.wait:
                wait_until_dry(name, roster.look)
        except BrokerUnavailable as error:
            raise SystemExit(str(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None
    if args.wait:
        print(f"{name} has nothing left: it may be ended")


def wait_until_dry(
    name: str,
    look: Callable[[], Mapping[str, Member]],
    *,
    pause_s: float = LOOK_AGAIN_S,
    silence_s: float = SILENCE_S,
) -> None:
    """Block until the worker says that it has nothing at hand: silence is no such word.

    Raises ``SystemExit`` if it has said nothing at all for ``silence_s``. Raises what ``look`` raises.
    """
    heard_at = time.monotonic()
    while True:
        member = look().get(name)
        if member and member.at_hand == 0:
            return
        if member:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > silence_s:
            raise SystemExit(f"{name} answers no more, so what it had left is unknown: see `workers`")
        time.sleep(pause_s)


def _named(members: Mapping[str, Member], wanted: str) -> tuple[str, Member]:
    """The worker of that name, or in the pod of that name."""
    found = [name for name in members if wanted in (name, pod_of(name))]
    if not found:
        tell(f"{name} answers" for name in sorted(members))
        raise SystemExit(f"no worker answers that is named {wanted!r}, or is in a pod of that name")
    return found[0], members[found[0]]
