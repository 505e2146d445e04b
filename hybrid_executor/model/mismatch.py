"""The stable set of mismatches: what two of the executor's sources said differently, and what was done.

The sources are the set in flight, the ledger, the backends (messages, results,
pods) and Airflow's task instances. The values are a contract: they stand in
metrics, in logs and in the documentation, and a released one is never renamed.
Meaning and rule are words for the reference page and may be bettered at any time.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Mismatch(StrEnum):
    """What did not fit. The text is what users see and alert on."""

    # --- the backend has lost it, or does nothing with it -------------------------
    MESSAGE_LOST = "MessageLost"
    RESULT_LOST = "ResultLost"
    POD_LOST = "PodLost"
    WORKER_IDLE = "WorkerIdle"

    # --- the task instance has gone on without it ---------------------------------
    TASK_OVER = "TaskOver"
    TASK_REPLACED = "TaskReplaced"
    TASK_DELETED = "TaskDeleted"
    RUNS_ELSEWHERE = "RunsElsewhere"
    OWNED_ELSEWHERE = "OwnedElsewhere"

    # --- nobody answers for it -----------------------------------------------------
    POD_WITHOUT_ATTEMPT = "PodWithoutAttempt"
    ROW_WITHOUT_SCHEDULER = "RowWithoutScheduler"
    IN_FLIGHT_DRIFTED = "InFlightDrifted"
    SLOT_LEAKED = "SlotLeaked"

    @property
    def meaning(self) -> str:
        """What was seen, in one sentence."""
        return WORDS[self].meaning

    @property
    def rule(self) -> str:
        """What the executor does about it, in one sentence."""
        return WORDS[self].rule


class Words(NamedTuple):
    """For the reference page."""

    meaning: str
    rule: str


WORDS: Mapping[Mismatch, Words] = {
    Mismatch.MESSAGE_LOST: Words(
        "the task is queued, and neither the broker, nor a worker, nor the result store knows its message",
        "a new submission under a new Celery task id, which costs no retry; the old id is never used again",
    ),
    Mismatch.RESULT_LOST: Words(
        "the task runs, and neither the broker nor the result store knows of it any more",
        "nothing is ended: a store that lost its data is no proof that a worker died, but the task's own"
        " heartbeat to Airflow is",
    ),
    Mismatch.POD_LOST: Words(
        "an attempt without its pod: a look-up of all pods finds none that bears the submission",
        "a new submission under a new name, which costs no retry, if the task has not started; else the"
        " attempt fails as `Lost`",
    ),
    Mismatch.WORKER_IDLE: Words(
        "a Celery worker is connected and answers, has nothing at hand and takes nothing, although the next"
        " message of a queue that it serves has not moved between two looks (celery#8030)",
        "told to reconnect, if it imports `hybrid_executor.worker.reconnect`; reported in the scheduler's log"
        " as to be restarted, if the next look finds it idle still",
    ),
    Mismatch.TASK_OVER: Words(
        "the task instance carries the attempt and is over: a user marked it, Airflow gave it up, or its end"
        " was not seen",
        "withdrawn from its backend, at once if it never ran, else after 15 s in which its process may end by"
        " itself; closed with what the task instance says",
    ),
    Mismatch.TASK_REPLACED: Words(
        "the task instance carries another attempt, or waits for one: a user cleared it, or Airflow tries it"
        " again",
        "withdrawn in the same way and closed as `revoked`; a newer attempt of the same task instance is sent"
        " when the older one is known to have ended",
    ),
    Mismatch.TASK_DELETED: Words(
        "the task instance is gone, with its run or its DAG",
        "withdrawn in the same way and closed as `revoked`",
    ),
    Mismatch.RUNS_ELSEWHERE: Words(
        "a process has ended while its task runs, and the task runs in the pod of another submission, which"
        " an API server that was set back to old data had again, and which Airflow let start first",
        "nothing is told to Airflow, and that pod is left alone; the attempt keeps its slot and is closed"
        " with what the task instance says once the task is over",
    ),
    Mismatch.OWNED_ELSEWHERE: Words(
        "another scheduler has adopted the task instance, because this one was silent for too long",
        "let go of; message or pod are left to the other scheduler, which answers for them",
    ),
    Mismatch.POD_WITHOUT_ATTEMPT: Words(
        "this scheduler sees a pod of its own whose submission the ledger does not know, or has closed",
        "removed as `delete_worker_pods` says if it has ended, withdrawn if it lives; left alone as long as a"
        " task instance carries it",
    ),
    Mismatch.ROW_WITHOUT_SCHEDULER: Words(
        "an open row of the ledger whose scheduler is dead, and which Airflow will not offer for adoption,"
        " because its task instance is over",
        "closed with what the task instance says and its backend saw; withdrawn if it never started",
    ),
    Mismatch.IN_FLIGHT_DRIFTED: Words(
        "an open row of the ledger that names this scheduler, for which it has nothing in flight, and whose"
        " task instance is over",
        "closed in the same way",
    ),
    Mismatch.SLOT_LEAKED: Words(
        "a withdrawn attempt of whose end its backend, although it answers, has said nothing for 5 minutes:"
        " a worker that was killed leaves its message unacknowledged until the visibility timeout",
        "on Celery its slot is given back, for its process has been stopped at a heartbeat by then; a pod can"
        " be seen, so it is withdrawn once more and keeps its slot",
    ),
}
