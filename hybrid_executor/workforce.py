"""The Celery workers as commands and the page show them: what each has at hand, and how it stands.

Asks the workers themselves over the broker, and the API server for the pods of
pools. ``status``, ``workers`` and the page in Airflow's UI call it, and bring what the ledger says of
where tasks run. Changes nothing.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.roster import Member, Roster
from hybrid_executor.backends.celery.workers import WorkerWatch
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory
from hybrid_executor.backends.kubernetes.poolpods import pool_selector, worker_pod
from hybrid_executor.meter import Meter
from hybrid_executor.model.errors import ApiUnavailable, BrokerUnavailable
from hybrid_executor.model.worker import WorkerPod, WorkerState, pod_of
from hybrid_executor.routing import Pool
from hybrid_executor.settings import Settings

TIMEOUT_S = 5.0
#: How a worker stands, and what that means.
STATES: Mapping[str, str] = {
    "live": "it answers and takes tasks",
    "idle": "it is connected and takes nothing although messages wait (celery#8030): restart it",
    "draining": "it takes nothing more and finishes what it has",
    "leaving": "its pod is being deleted, and it has time to finish what it has",
    "silent": "its pod is there and it does not answer: it starts, or hangs",
    "gone": "neither it nor its pod is there, and what it ran is not yet found lost",
    "unknown": "the broker does not answer, or the worker did not say all in time",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workforce:
    """Who was there at one time."""

    #: None where the broker did not answer, so that nothing is known of anybody.
    members: Mapping[str, Member] | None
    #: Of them those that are connected and take nothing although messages wait (celery#8030).
    idle: frozenset[str] = frozenset()
    #: Pods of pools by name, but for those that are gone.
    pods: Mapping[str, WorkerPod] = field(default_factory=dict)
    #: Who did not answer, and why; one line each.
    problems: Sequence[str] = ()


def look_at(settings: Settings) -> Workforce:
    """Ask everybody; never raises. Takes two seconds, and up to five more where messages wait."""
    app, config = provider_app(), replace(settings.celery, read_timeout_s=TIMEOUT_S)
    pods, problems = _pods(settings)
    try:
        with closing(Roster(app, config)) as roster:
            members = roster.look()
        idle = frozenset(WorkerWatch(app, config, tuple, Meter()).find())
    except BrokerUnavailable as error:
        problems.insert(0, f"the broker does not answer: {error}")
        return Workforce(members=None, pods=pods, problems=problems)
    return Workforce(members=members, idle=idle, pods=pods, problems=problems)


def rows(force: Workforce, running: Mapping[str, int], pools: Sequence[Pool]) -> Iterator[dict[str, str]]:
    """Workers that answer, those of pods that don't, and those that are gone and were not missed yet.

    ``running`` is how many tasks the ledger has on which worker. It is shown of one that did not say what it
    has, or a question mark where the ledger has none: it may have taken more than the ledger knows.
    """
    members, pods = force.members or {}, force.pods
    by_pod = {pod_of(name): name for name in members}
    silent = {name: by_pod.get(name, f"celery@{name}") for name in pods}
    gone = {name for name in running if pod_of(name) not in pods and name != "?"}
    for name in sorted({*members, *silent.values(), *gone}):
        member, pod = members.get(name), pods.get(pod_of(name))
        told = member.at_hand if member else None
        at_hand = running.get(name, "?") if told is None else told
        yield {
            "worker": name,
            "pool": pod.pool if pod else _pool_of(member, pools),
            "queues": ",".join(member.queues or ()) if member else "",
            "load": f"{at_hand}/{member.slots}" if member else f"{at_hand}/?",
            "state": _state(force, name, pod),
            "pod": pod.name if pod else "",
        }


def _state(force: Workforce, name: str, pod: WorkerPod | None) -> str:
    if name in force.idle:
        return "idle"
    if pod and pod.state is WorkerState.LEAVING:
        return "leaving"
    if force.members is None:
        return "unknown"
    member = force.members.get(name)
    if member is None:
        return "silent" if pod else "gone"
    if member.queues is None or member.at_hand is None:
        return "unknown"
    return "live" if member.queues else "draining"


def _pool_of(member: Member | None, pools: Sequence[Pool]) -> str:
    """The one that serves what it serves."""
    served = set(member.queues or ()) if member else set()
    return next((pool.name for pool in pools if served & set(pool.queues)), "")


def _pods(settings: Settings) -> tuple[dict[str, WorkerPod], list[str]]:
    """The pods of pools, and who did not answer."""
    if not settings.kubernetes.workers_namespace:
        return {}, []
    try:
        listed = asyncio.run(_list(settings.kubernetes))
    except ApiUnavailable as error:
        return {}, [str(error)]
    return {pod.name: pod for pod in listed if pod.state is not WorkerState.GONE}, []


async def _list(config: KubernetesConfig) -> list[WorkerPod]:
    api = Inventory(config)
    try:
        pages = api.list_pages(config.workers_namespace, pool_selector(config))
        return [worker_pod(pod) async for page in pages for pod in page]
    finally:
        await api.close()
