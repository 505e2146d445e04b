"""``airflow hybrid pods logs``: what the task's container prints, of the pod as it is now.

Finds the pod by its name, by the attempt's id or by the task, and follows it
from the time at which it still waits to its end. Needs the rights to list pods
and to get ``pods/log``. The logs of pods that are gone are Airflow's to show.
"""

import asyncio
import os
import re
import sys
from argparse import Namespace
from dataclasses import replace

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory, attempts_of
from hybrid_executor.cli.clusters import ask, chosen
from hybrid_executor.cli.routes import tell
from hybrid_executor.model.attempt import TaskAddress
from hybrid_executor.pods.build import safe_label
from hybrid_executor.pods.inventory import PodSummary, summarise
from hybrid_executor.settings import load_settings

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: Between two looks at a pod that has not started.
LOOK_S = 1.0


@suppress_logs_and_warning
@providers_configuration_loaded
def logs(args: Namespace) -> None:
    """Write the log to standard output, and what becomes of the pod to standard error."""
    if len(args.target) not in (1, 3):
        raise SystemExit("name a pod, an attempt's id, or DAG_ID RUN_ID TASK_ID")
    settings = load_settings()
    found = ask(chosen(settings, args.cluster), lambda api, config: Reading(api, config, args).find())
    if not (pods := [pod for some in found.found for pod in some]):
        found.exit_if_incomplete()
        raise SystemExit(
            f"no pod of {' '.join(args.target)} is there; logs of pods that are gone are in Airflow"
        )
    tell(found.problems)
    pod = max(pods, key=_newness)
    try:
        ask(
            [settings.every_cluster[pod.cluster]], lambda api, config: Reading(api, config, args).run(pod)
        ).exit_if_incomplete()
    except BrokenPipeError:
        # Whoever read it has seen enough; nothing may be written when Python closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Reading:
    """One run of the command, in one cluster."""

    def __init__(self, api: Inventory, config: KubernetesConfig, args: Namespace) -> None:
        self._api = api
        self._config = config
        self._args = args

    async def run(self, pod: PodSummary) -> None:
        """Write its log, once it has started."""
        pod = await self._started(pod)
        async for chunk in self._api.log(
            pod, self._args.container or pod.container, follow=self._args.follow, tail_lines=self._args.tail
        ):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        if self._args.follow:
            await self._tell_end(pod)

    async def find(self) -> list[PodSummary]:
        """The pods of what was named."""
        selector, field_selector, address = self._wanted()
        return [
            summary
            for namespace in self._args.namespace or self._config.watched
            async for page in self._api.list_pages(namespace, selector, field_selector)
            for summary in map(summarise, page)
            if address is None or self._is_of(summary, address)
        ]

    def _wanted(self) -> tuple[str, str, TaskAddress | None]:
        """Label selector, field selector, and the task if one was named."""
        if len(self._args.target) == 3:
            dag_id, run_id, task_id = self._args.target
            labels = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
            chosen = ",".join(f"{name}={safe_label(value)}" for name, value in labels.items())
            address = TaskAddress(
                dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=self._args.map_index
            )
            return f"{attempts_of(self._config)},{chosen}", "", address
        [name] = self._args.target
        if _UUID.fullmatch(name):
            return attempts_of(self._config, attempt_id=name.lower()), "", None
        name = name.rpartition("/")[2]
        return attempts_of(self._config), f"metadata.name={name}", None

    def _is_of(self, pod: PodSummary, address: TaskAddress) -> bool:
        """Whether it runs the task, in the try that was asked for if one was."""
        if pod.address is None or replace(pod.address, try_number=address.try_number) != address:
            return False
        return self._args.try_number in (None, pod.address.try_number)

    async def _started(self, pod: PodSummary) -> PodSummary:
        """Wait for the task's process where the log is followed."""
        told = ""
        while not pod.started:
            if pod.ended_at is not None or not self._args.follow:
                raise SystemExit(f"pod {pod.external_name} has not started: {pod.reason or pod.phase}")
            if pod.reason != told:
                told = pod.reason
                tell([f"pod {pod.external_name} waits: {told}"])
            await asyncio.sleep(LOOK_S)
            pod = await self._again(pod)
        return pod

    async def _again(self, pod: PodSummary) -> PodSummary:
        found = await self._api.read_pod(pod.namespace, attempts_of(self._config), pod.name)
        if found is None:
            raise SystemExit(f"pod {pod.external_name} is gone")
        return summarise(found)

    async def _tell_end(self, pod: PodSummary) -> None:
        pod = await self._again(pod)
        tell([f"pod {pod.external_name}: {pod.phase}" + (f", {pod.reason}" if pod.reason else "")])


def _newness(pod: PodSummary) -> tuple[int, int, str]:
    number = pod.submission.number if pod.submission else 0
    return pod.address.try_number if pod.address else 0, number, pod.name
