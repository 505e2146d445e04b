"""``airflow hybrid why``: what became of one task, and why, with what to do about it.

Reads the task instance and the ledger; for a submission that is open in
Kubernetes it also looks at the pod as it is now, and says so where it can't.
"""

import json
from argparse import Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor import contract
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory, attempts_of
from hybrid_executor.cli.clusters import ask
from hybrid_executor.cli.ledger import history, json_value, plain, reading
from hybrid_executor.contract import TaskView
from hybrid_executor.durations import in_words, in_words_finely
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import Stage, SubmissionRecord
from hybrid_executor.pods.inventory import PodSummary, summarise
from hybrid_executor.settings import Settings, load_settings
from hybrid_executor.timeline import Moment, advice, headline, story, unknown_here

#: Columns for the time of a line.
WHEN = 24


@suppress_logs_and_warning
@providers_configuration_loaded
def why(args: Namespace) -> None:
    """Print the story of every try, the newest last."""
    instances, records = _read(args)
    if not instances and not records:
        raise SystemExit(_nothing(args))
    now = datetime.now(UTC)
    if len({_index_of(record) for record in records} | {view.map_index for view in instances}) > 1:
        _tell_mapped(args, instances, records, now)
        return
    pod = _pod_of(records[-1], load_settings()) if records else None
    instance = instances[0] if instances else None
    if args.json:
        print(json.dumps(_as_json(instance, records, pod, now), indent=2))
        return
    print(_title(args, instance, now))
    for record in records:
        _tell(record, now)
    if pod:
        print(f"  {'now':<{WHEN}}  {_pod_in_words(pod)}")
    hint = advice(records[-1]) if records else unknown_here(instance.state if instance else None)
    if hint:
        print(f"  -> {hint}")


def _read(args: Namespace) -> tuple[list[TaskView], list[SubmissionRecord]]:
    with reading():
        instances = contract.task_views(args.dag_id, args.run_id, args.task_id)
        records = history().of_task(args.dag_id, args.run_id, args.task_id, args.map_index)
    if args.map_index is not None:
        instances = [instance for instance in instances if instance.map_index == args.map_index]
    if args.try_number:
        records = [r for r in records if r.address and r.address.try_number == args.try_number]
    return instances, records


def _index_of(record: SubmissionRecord) -> int:
    return record.address.map_index if record.address else -1


def _nothing(args: Namespace) -> str:
    index = "" if args.map_index is None else f" with map index {args.map_index}"
    return (
        f"there is no task instance {args.dag_id}.{args.task_id}{index} in run {args.run_id!r}, and the"
        f" ledger knows of none; see airflow dags list-runs {args.dag_id}, airflow tasks list {args.dag_id}"
    )


def _title(args: Namespace, instance: TaskView | None, now: datetime) -> str:
    what = f"{args.dag_id}.{args.task_id} of {args.run_id}"
    if instance is None:
        return f"{what}: Airflow has no such task instance any more; the ledger remembers"
    index = f", map index {instance.map_index}" if instance.map_index >= 0 else ""
    tries = f"try {instance.try_number} of {max(instance.max_tries + 1, instance.try_number)}"
    since = instance.ended_at or instance.started_at or instance.queued_at
    ago = f", {in_words(now - since)} ago" if instance.ended_at and since else ""
    elsewhere = f", which names executor {instance.executor!r}" if instance.executor else ""
    return f"{what}{index}: {instance.state or 'no state'} in Airflow ({tries}{ago}){elsewhere}"


def _tell(record: SubmissionRecord, now: datetime) -> None:
    number = f"try {record.address.try_number}, " if record.address else ""
    print(f"\n{number}attempt {record.id}: {headline(record, now)}")
    before: Moment | None = None
    for moment in story(record):
        when = (
            in_words_finely(moment.at - before.at) + " later"
            if before
            else moment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
        )
        print(f"  {when:<{WHEN}}  {moment.text}")
        before = moment


def _tell_mapped(
    args: Namespace, instances: list[TaskView], records: list[SubmissionRecord], now: datetime
) -> None:
    """One line for each mapped instance."""
    newest = {_index_of(record): record for record in records}
    states = {view.map_index: view.state or "no state" for view in instances}
    if args.json:
        each = [plain(record) for _, record in sorted(newest.items())]
        print(
            json.dumps({"mapped": each, "states": {str(i): s for i, s in sorted(states.items())}}, indent=2)
        )
        return
    print(f"{args.dag_id}.{args.task_id} of {args.run_id} is mapped; --map-index tells the story of one:")
    for index in sorted({*newest, *states}):
        record = newest.get(index)
        how = f"attempt {record.id}: {headline(record, now)}" if record else "the ledger knows nothing of it"
        print(f"  {index:>5}  {states.get(index, 'gone'):<12} {how}")


def _pod_of(record: SubmissionRecord, settings: Settings) -> PodSummary | str | None:
    """The pod of an open submission, or why it can't be shown; None where there is none to look for."""
    if record.backend is not BackendName.KUBERNETES or record.state not in (Stage.SUBMITTED, Stage.RUNNING):
        return None
    config = settings.every_cluster.get(record.cluster)
    if config is None:
        what = f"its cluster {record.cluster!r} is not in [hybrid_executor] clusters_file"
        return f"the pod can't be looked at: {what}"
    namespace = (record.external_name or "").partition("/")[0]

    async def look(api: Inventory, config: KubernetesConfig) -> list[PodSummary]:
        selector = attempts_of(config, attempt_id=record.id.attempt_id)
        pages = [
            page
            for where in ([namespace] if namespace else config.watched)
            async for page in api.list_pages(where, selector)
        ]
        return [summarise(pod) for page in pages for pod in page]

    answers = ask([config], look)
    if answers.problems:
        return f"the pod can't be looked at: {answers.problems[0]}"
    found = [pod for pods in answers.found for pod in pods if pod.submission == record.id]
    return found[0] if found else "its pod is not there any more; the scheduler will notice"


def _pod_in_words(pod: PodSummary | str) -> str:
    if isinstance(pod, str):
        return pod
    why_so = f": {pod.reason}" if pod.reason else ""
    return f"pod {pod.external_name} is {pod.phase}{why_so}" + (f", on {pod.node}" if pod.node else "")


def _as_json(
    instance: TaskView | None,
    records: list[SubmissionRecord],
    pod: PodSummary | str | None,
    now: datetime,
) -> dict[str, Any]:
    return {
        "task_instance": {name: json_value(value) for name, value in asdict(instance).items()}
        if instance
        else None,
        "attempts": [
            plain(record)
            | {
                "headline": headline(record, now),
                "advice": advice(record),
                "story": [
                    {"at": m.at.isoformat(), "event": str(m.event), "text": m.text} for m in story(record)
                ],
            }
            for record in records
        ],
        "pod": pod
        if isinstance(pod, str) or pod is None
        else {"name": pod.external_name, "phase": str(pod.phase), "reason": pod.reason, "node": pod.node},
    }
