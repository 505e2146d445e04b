"""Tries all that the live half needs of its server, on keys of its own that are gone afterwards.

Whether a user may write can't be asked, only tried: the server tells its rights
to administrators alone. Called by ``doctor``.
"""

from datetime import UTC, datetime
from uuid import uuid4

from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.reader import LiveReader
from hybrid_executor.ledger.live.store import LiveStore, item_change, item_drop, item_new
from hybrid_executor.model.attempt import BackendName, SubmissionId, WorkloadKind
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord

JOB = "doctor"


def attempt_everything(config: LiveConfig) -> None:
    """Write, compare, read, listen, remove. Raises ``LiveUnavailable`` with what was refused."""
    part = f"trial-{uuid4()}:"
    store, reader = LiveStore(config, JOB, part=part), LiveReader(config, part=part)
    going, over = _submission(), _submission()
    try:
        store.write("1", None, [item_new(going), item_new(over)], anew=True)
        store.write("2", "1", [item_change(_end(over))])
        store.vouch(store.survey())
        reader.record(going.id.attempt_id)
        reader.inflight(going.backend, going.queue)
        reader.standing([JOB])
        reader.listen("0-0", lambda _: True, config.timeout_s)
        reader.last_transition()
        store.write("3", "2", [item_drop(going.id.attempt_id)])
        store.forget(over.id.attempt_id)
    finally:
        store.close()
        reader.close()


def _submission() -> SubmissionRecord:
    return SubmissionRecord(
        id=SubmissionId(str(uuid4()), 1),
        kind=WorkloadKind.TASK,
        workload_id=JOB,
        address=None,
        queue=JOB,
        backend=BackendName.CELERY,
        rule=JOB,
        scheduler_job=JOB,
        queued_at=datetime.now(UTC),
    )


def _end(record: SubmissionRecord) -> Change:
    return Change(id=record.id, ended_at=datetime.now(UTC), outcome=Outcome.SUCCEEDED)
