"""``airflow hybrid workers``: the Celery workers, their load and how they stand; and a drain by hand.

Asks the workers themselves over the broker, the API server for the pods of
pools, and the ledger for what runs on workers that say nothing. Only ``drain``
changes anything.
"""

import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.roster import Member, Roster
from hybrid_executor.backends.celery.workers import WorkerWatch
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory
from hybrid_executor.backends.kubernetes.poolpods import pool_selector, worker_pod
from hybrid_executor.cli.clusters import ask
from hybrid_executor.cli.ledger import history, reading
from hybrid_executor.cli.routes import show, tell
from hybrid_executor.meter import Meter
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.worker import WorkerPod, WorkerState, pod_of
from hybrid_executor.routing import Pool
from hybrid_executor.settings import Settings, load_settings

TIMEOUT_S = 5.0
#: Between two looks at queues that may stand still, and at a worker that drains.
LOOK_AGAIN_S = 1.5


@suppress_logs_and_warning
@providers_configuration_loaded
def workers(args: Namespace) -> None:
    """Print one row per worker; exits with 1 if somebody does not answer."""
    settings = load_settings()
    problems: list[str] = []
    members, idle = _answering(settings, problems)
    pods = _pods(settings, problems)
    with reading():
        running = {
            name: count
            for (backend, name), count in history().places().items()
            if backend is BackendName.CELERY
        }
    show(list(rows(members, idle, pods, running, settings.pools)), args.output)
    if problems:
        raise SystemExit("\n".join(problems))


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


def rows(
    members: Mapping[str, Member],
    idle: Iterable[str],
    pods: Mapping[str, WorkerPod],
    running: Mapping[str, int],
    pools: Sequence[Pool],
) -> Iterator[dict[str, str]]:
    """Workers that answer, those of pods that don't, and those that are gone and were not missed yet."""
    by_pod = {pod_of(name): name for name in members}
    silent = {name: by_pod.get(name, f"celery@{name}") for name in pods}
    gone = {name for name in running if pod_of(name) not in pods and name != "?"}
    for name in sorted({*members, *silent.values(), *gone}):
        member, pod = members.get(name), pods.get(pod_of(name))
        at_hand = member.at_hand if member else running.get(name, 0)
        yield {
            "worker": name,
            "pool": pod.pool if pod else _pool_of(member, pools),
            "queues": ",".join(member.queues) if member else "",
            "load": f"{at_hand}/{member.slots}" if member else f"{at_hand}/?",
            "state": "idle" if name in set(idle) else _state(member, pod),
            "pod": pod.name if pod else "",
        }


def _state(member: Member | None, pod: WorkerPod | None) -> str:
    if pod and pod.state is WorkerState.LEAVING:
        return "leaving"
    if member is None:
        return "silent" if pod else "gone"
    return "live" if member.queues else "draining"


def _pool_of(member: Member | None, pools: Sequence[Pool]) -> str:
    """The one that serves what it serves."""
    served = set(member.queues) if member else set()
    return next((pool.name for pool in pools if served & set(pool.queues)), "")


def _answering(settings: Settings, problems: list[str]) -> tuple[dict[str, Member], list[str]]:
    """The workers that answer, and those of them that are connected and take nothing (celery#8030)."""
    app, config = provider_app(), replace(settings.celery, read_timeout_s=TIMEOUT_S)
    try:
        with closing(Roster(app, config)) as roster:
            members = roster.look()
        return members, sorted(WorkerWatch(app, config, tuple, Meter()).find(LOOK_AGAIN_S))
    except BrokerUnavailable as error:
        problems.append(f"the broker does not answer: {error}")
        return {}, []


def _pods(settings: Settings, problems: list[str]) -> dict[str, WorkerPod]:
    if not settings.kubernetes.workers_namespace:
        return {}
    answers = ask([settings.kubernetes], _list)
    problems += answers.problems
    seen = [pod for page in answers.found for pod in page if pod.state is not WorkerState.GONE]
    return {pod.name: pod for pod in seen}


async def _list(api: Inventory, config: KubernetesConfig) -> list[WorkerPod]:
    pages = api.list_pages(config.workers_namespace, pool_selector(config))
    return [worker_pod(pod) async for page in pages for pod in page]


def _named(members: Mapping[str, Member], wanted: str) -> tuple[str, Member]:
    """The worker of that name, or in the pod of that name."""
    found = [name for name in members if wanted in (name, pod_of(name))]
    if not found:
        tell(f"{name} answers" for name in sorted(members))
        raise SystemExit(f"no worker answers that is named {wanted!r}, or is in a pod of that name")
    return found[0], members[found[0]]
