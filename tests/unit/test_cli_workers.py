"""How ``airflow hybrid workers`` puts together what workers, pods and the ledger say."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest

from hybrid_executor.backends.celery.roster import Member
from hybrid_executor.cli.workers import wait_until_dry
from hybrid_executor.model.worker import WorkerPod, WorkerState
from hybrid_executor.routing import Pool
from hybrid_executor.workforce import Workforce, rows

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


def test_a_worker_that_did_not_say_all_in_time_is_unknown_and_not_idle() -> None:
    members = {
        "celery@a": Member(queues=("default",), at_hand=None, slots=4),
        "celery@b": Member(queues=None, at_hand=2, slots=4),
    }
    shown = rows(Workforce(members=members), {}, [Pool(name="light", queues=("default",), concurrency=4)])
    assert [(row["worker"], row["pool"], row["load"], row["state"]) for row in shown] == [
        ("celery@a", "light", "?/4", "unknown"),
        ("celery@b", "", "2/4", "unknown"),
    ]
    [late, _] = rows(Workforce(members=members), {"celery@a": 3}, [])
    assert late["load"] == "3/4", "what the ledger knows of it"


def looks(*each: Member | None) -> tuple[Callable[[], Mapping[str, Member]], list[Member | None]]:
    """What ``celery@a`` says at one look after another, the last for ever; and what is left to say."""
    left = list(each)

    def look() -> Mapping[str, Member]:
        said = left.pop(0) if len(left) > 1 else left[0]
        return {"celery@b": BUSY} | ({"celery@a": said} if said else {})

    return look, left


def test_a_drain_is_waited_for_until_the_worker_says_that_it_has_nothing_left() -> None:
    late, dry = (Member(queues=(), at_hand=at_hand, slots=4) for at_hand in (None, 0))
    look, left = looks(DRAINING, late, None, DRAINING, dry)
    wait_until_dry("celery@a", look, pause_s=0.0)
    assert left == [dry]


def test_a_worker_that_says_nothing_any_more_is_not_called_dry() -> None:
    look, _ = looks(DRAINING, None)
    with pytest.raises(SystemExit, match=r"celery@a answers no more, so what it had left is unknown"):
        wait_until_dry("celery@a", look, pause_s=0.0, silence_s=0.01)
