"""How ``airflow hybrid workers`` puts together what workers, pods and the ledger say."""

from datetime import UTC, datetime

from hybrid_executor.backends.celery.roster import Member
from hybrid_executor.cli.workforce import Workforce, rows
from hybrid_executor.model.worker import WorkerPod, WorkerState
from hybrid_executor.routing import Pool

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
BUSY = Member(queues=("default",), at_hand=3, slots=4)
DRAINING = Member(queues=(), at_hand=1, slots=4)


def pod(name: str, state: WorkerState = WorkerState.LIVE) -> WorkerPod:
    return WorkerPod(name=name, pool="light", state=state, began_at=SINCE)


def test_each_worker_has_one_row_whoever_speaks_of_it() -> None:
    members = {f"celery@{name}": BUSY for name in ("a", "b", "vm")} | {"celery@c": DRAINING}
    pods = {p.name: p for p in (pod("a"), pod("b", WorkerState.LEAVING), pod("c"), pod("d"))}
    running = {"celery@a": 3, "celery@lost": 2, "?": 1}
    pools = [Pool(name="machines", queues=("default",), concurrency=4)]
    force = Workforce(members=members, idle=frozenset({"celery@vm"}), pods=pods)
    shown = {r["worker"]: r for r in rows(force, running, pools)}
    assert {name: row["state"] for name, row in shown.items()} == {
        "celery@a": "live",
        "celery@b": "leaving",
        "celery@c": "draining",
        "celery@d": "silent",
        "celery@lost": "gone",
        "celery@vm": "idle",
    }
    assert [shown[f"celery@{n}"]["load"] for n in ("a", "c", "lost")] == ["3/4", "1/4", "2/?"]
    assert [shown[f"celery@{n}"]["pool"] for n in ("a", "vm", "lost")] == ["light", "machines", ""]


def test_a_worker_that_answers_is_not_gone_for_want_of_a_pod() -> None:
    [row] = rows(Workforce(members={"celery@vm": BUSY}), {"celery@vm": 3}, [])
    assert (row["state"], row["pod"]) == ("live", "")


def test_nobody_is_called_gone_or_silent_where_the_broker_does_not_answer() -> None:
    pods = {p.name: p for p in (pod("a"), pod("b", WorkerState.LEAVING))}
    shown = rows(Workforce(members=None, pods=pods), {"celery@a": 1, "celery@vm": 2}, [])
    assert [(row["worker"], row["state"]) for row in shown] == [
        ("celery@a", "unknown"),
        ("celery@b", "leaving"),
        ("celery@vm", "unknown"),
    ]
