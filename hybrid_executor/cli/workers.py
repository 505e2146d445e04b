"""``airflow hybrid workers``: the Celery workers, their load and how they stand; and a drain by hand.

``workforce`` asks the workers and their pods, and the ledger is asked for what
runs on workers that say nothing. Only ``drain`` changes anything.
"""

import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.roster import Member, Roster
from hybrid_executor.cli import workforce
from hybrid_executor.cli.ledger import history, reading
from hybrid_executor.cli.routes import show, tell
from hybrid_executor.cli.workforce import TIMEOUT_S
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.worker import pod_of
from hybrid_executor.settings import load_settings

#: Between two looks at a worker that drains.
LOOK_AGAIN_S = 1.5


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
            print(f"{name} takes nothing more and has {member.at_hand} left", flush=True)
            while args.wait and (left := roster.look().get(name)) and left.at_hand:
                time.sleep(LOOK_AGAIN_S)
        except BrokerUnavailable as error:
            raise SystemExit(str(error)) from error
        except KeyboardInterrupt:
            raise SystemExit(130) from None
    if args.wait:
        print(f"{name} has nothing left: it may be ended")


def _named(members: Mapping[str, Member], wanted: str) -> tuple[str, Member]:
    """The worker of that name, or in the pod of that name."""
    found = [name for name in members if wanted in (name, pod_of(name))]
    if not found:
        tell(f"{name} answers" for name in sorted(members))
        raise SystemExit(f"no worker answers that is named {wanted!r}, or is in a pod of that name")
    return found[0], members[found[0]]
