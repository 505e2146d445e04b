"""Records as rows of the ledger's table, and back; and changes folded to one per row.

Pure. ``database`` and ``memory`` call it, so that both mean the same by a batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from enum import Enum
from typing import Any

from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Outcome, PodRun, SubmissionRecord
from hybrid_executor.model.resources import Resources

#: Fields of a record that are called otherwise in the table: ``WHERE`` is SQL's own word.
_COLUMNS = {"where": "ran_on"}
_CHANGEABLE = tuple(field.name for field in fields(Change) if field.name != "id")
_PLAIN = (
    "workload_id",
    "queue",
    "rule",
    "pod_template_file",
    "scheduler_job",
    "queued_at",
    "submitted_at",
    "started_at",
    "ended_at",
    "external_name",
    "waits_message",
    "waits_since",
    "worker_leaves_at",
    "message",
    "exit_code",
    *(field.name for field in fields(Resources)),
)

#: The columns that a change may set.
CHANGEABLE_COLUMNS = tuple(_COLUMNS.get(name, name) for name in _CHANGEABLE)

_REASONS = {reason.value: reason for reason in Reason}
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}

Row = dict[str, Any]


def row_of(record: SubmissionRecord) -> Row:
    """The record's row: every column, by name."""
    address = record.address
    return {name: getattr(record, name) for name in _PLAIN} | {
        "attempt_id": record.id.attempt_id,
        "submission": record.id.number,
        "kind": record.kind.value,
        "backend": record.backend.value,
        "cluster": record.cluster or None,
        "dag_id": address and address.dag_id,
        "task_id": address and address.task_id,
        "run_id": address and address.run_id,
        "map_index": address and address.map_index,
        "try_number": address and address.try_number,
        "ran_on": record.where,
        "waits_for": record.waits_for and record.waits_for.value,
        "outcome": record.outcome and record.outcome.value,
        "reason": record.reason and record.reason.value,
        "retry_on": ",".join(sorted(record.retry_on)) or None,
        "retry_limit": record.retry_limit or None,
    }


def record_of(row: Any) -> SubmissionRecord:
    """The record of a row, which is a mapping by column name.

    Raises ValueError for a kind, backend or outcome that only a later release knows.
    """
    return SubmissionRecord(
        **{name: row[name] for name in _PLAIN},
        id=SubmissionId(row["attempt_id"], row["submission"]),
        kind=WorkloadKind(row["kind"]),
        backend=BackendName(row["backend"]),
        cluster=row["cluster"] or "",
        address=_address(row),
        where=row["ran_on"],
        waits_for=_reason(row["waits_for"]),
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        reason=_reason(row["reason"]),
        retry_on=frozenset(r for text in (row["retry_on"] or "").split(",") if (r := _reason(text))),
        retry_limit=row["retry_limit"] or 0,
    )


def pod_run_of(row: Any) -> PodRun:
    """What a row of ``queries.pod_runs`` says; an outcome of a later release is read as none."""
    values = {name: row[name] for name in row if name not in ("started_at", "ended_at", "outcome", "reason")}
    return PodRun(
        **values,
        ran_s=(row["ended_at"] - row["started_at"]).total_seconds(),
        outcome=_OUTCOMES.get(row["outcome"]),
        reason=_reason(row["reason"]),
    )


def change_row_of(change: Change) -> Row:
    """The change's new values by column, and the row's key; no column that stays as it is."""
    row: Row = {"attempt_id": change.id.attempt_id, "submission": change.id.number}
    for name, value in _set_values(change).items():
        row[_COLUMNS.get(name, name)] = value.value if isinstance(value, Enum) else value
    return row


def apply(change: Change, record: SubmissionRecord) -> SubmissionRecord:
    """The record after the change; one that has ended stays as it is."""
    if record.ended_at is not None:
        return record
    return replace(record, **_set_values(change))


def folded(changes: Iterable[Change]) -> list[Change]:
    """One change per row, in the order of the rows' keys, with the effect of all in turn.

    Later values win, and what follows a row's end is dropped. The fixed order
    is the order of locking: two schedulers never wait for each other in a circle.
    """
    by_id: dict[SubmissionId, Change] = {}
    for change in changes:
        earlier = by_id.get(change.id)
        if earlier is None:
            by_id[change.id] = change
        elif earlier.ended_at is None:
            by_id[change.id] = replace(earlier, **_set_values(change))
    return [by_id[key] for key in sorted(by_id)]


def in_a_row(tries: Iterable[int], before: int) -> int:
    """How many of the tries lie right before one, without a gap."""
    known, count = set(tries), 0
    while before - count - 1 in known:
        count += 1
    return count


def in_order(records: Sequence[SubmissionRecord]) -> list[SubmissionRecord]:
    """The records in the order of their keys; of equals the first stays first."""
    return sorted(records, key=lambda record: record.id)


def _set_values(change: Change) -> Row:
    return {name: value for name in _CHANGEABLE if (value := getattr(change, name)) is not None}


def _address(row: Any) -> TaskAddress | None:
    if row["dag_id"] is None:
        return None
    return TaskAddress(
        dag_id=row["dag_id"],
        task_id=row["task_id"],
        run_id=row["run_id"],
        map_index=row["map_index"],
        try_number=row["try_number"],
    )


def _reason(text: str | None) -> Reason | None:
    """The reason; None for one that only a later release knows, as its message says it too."""
    return _REASONS.get(text) if text else None
