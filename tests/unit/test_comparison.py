"""What follows from a difference, whatever differs: nothing that lives is taken, nothing stays for ever."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.comparison import (
    ALIVE,
    LEAK_MIN_S,
    LINGER_S,
    Agrees,
    GiveBack,
    LetGo,
    Lingers,
    Standing,
    Withdraw,
    WithdrawAgain,
    compare,
    contradicted,
)
from hybrid_executor.lifecycle import AttemptView, Phase, Witness
from hybrid_executor.model.attempt import BackendName, SubmissionId, WorkloadKind
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import Ended, How
from hybrid_executor.model.record import Outcome

MINE, OTHER = "attempt", "another attempt"
QUEUED_AT = datetime(2026, 11, 22, tzinfo=UTC)
STATES = [None, "scheduled", "queued", "running", "restarting", "success", "failed", "up_for_retry"]
STATES += ["deferred", "up_for_reschedule", "skipped", "upstream_failed", "removed"]

TIMEOUT_S = 300.0
seconds = st.floats(0, 2 * TIMEOUT_S)
standings = st.builds(
    Standing,
    attempt_id=st.just(MINE),
    kind=st.sampled_from(WorkloadKind),
    backend=st.sampled_from(BackendName),
    queued_at=st.just(QUEUED_AT),
    is_sent=st.booleans(),
    has_started=st.booleans(),
    revoked=st.booleans(),
    withdrawn_s=seconds,
    over_s=seconds,
    is_answered=st.booleans(),
)
witnesses = st.none() | st.builds(
    Witness,
    state=st.sampled_from(STATES),
    attempt_id=st.sampled_from([MINE, OTHER, None]),
    owner=st.sampled_from(["1", "2", None]),
    started_at=st.sampled_from([None, QUEUED_AT - timedelta(hours=1), QUEUED_AT + timedelta(seconds=1)]),
    host=st.sampled_from([None, "worker-1"]),
)


def is_task(standing: Standing) -> bool:
    return standing.kind is WorkloadKind.TASK


def carries(witness: Witness | None) -> bool:
    return witness is not None and witness.attempt_id == MINE and witness.state in ALIVE


@given(standings, witnesses)
def test_what_the_task_instance_carries_is_never_taken_from_it(standing: Standing, witness: Witness | None):
    if is_task(standing) and carries(witness):
        assert isinstance(compare(standing, witness, "1", TIMEOUT_S), Agrees | LetGo)


@given(standings, witnesses)
def test_what_another_scheduler_owns_is_let_go_and_not_withdrawn(standing: Standing, witness: Witness | None):
    elsewhere = is_task(standing) and witness is not None and witness.owner == "2"
    assert isinstance(compare(standing, witness, "1", TIMEOUT_S), LetGo) == elsewhere


@given(standings, witnesses)
def test_what_airflow_has_gone_on_without_is_withdrawn_once_it_had_time_to_end(
    standing: Standing, witness: Witness | None
):
    mine = witness is None or witness.owner in (None, "1")
    if not is_task(standing) or standing.revoked or not mine or carries(witness):
        return
    finding = compare(standing, witness, "1", TIMEOUT_S)
    if standing.over_s >= LINGER_S or not standing.is_sent:
        assert isinstance(finding, Withdraw)
    else:
        assert isinstance(finding, Withdraw | Lingers)
    if isinstance(finding, Withdraw) and finding.outcome is Outcome.SUCCEEDED:
        assert witness
        assert witness.attempt_id == MINE


@given(standings, witnesses, seconds)
def test_a_slot_is_given_back_on_celery_alone_and_only_after_a_long_silence(
    standing: Standing, witness: Witness | None, timeout_s: float
):
    finding = compare(standing, witness, "1", timeout_s)
    if isinstance(finding, GiveBack | WithdrawAgain):
        assert standing.revoked
        assert standing.is_answered
        assert standing.withdrawn_s >= max(timeout_s, LEAK_MIN_S)
        assert isinstance(finding, GiveBack) == (standing.backend is BackendName.CELERY)


@given(standings, witnesses, seconds)
def test_what_is_withdrawn_does_not_stay_for_ever_where_its_backend_answers(
    standing: Standing, witness: Witness | None, timeout_s: float
):
    silent = standing.revoked and standing.is_answered and standing.withdrawn_s >= max(timeout_s, LEAK_MIN_S)
    if silent and not (is_task(standing) and carries(witness)):
        assert isinstance(compare(standing, witness, "1", timeout_s), GiveBack | WithdrawAgain | LetGo)


@given(st.sampled_from(How), st.sampled_from(BackendName), witnesses)
def test_only_the_absence_of_every_trace_is_a_loss(how: How, backend: BackendName, witness: Witness | None):
    view = AttemptView(
        attempt_id=MINE, kind=WorkloadKind.TASK, backend=backend, phase=Phase.STARTED, number=1
    )
    found = contradicted(Ended(SubmissionId(MINE, 1), how), view, witness)
    assert (found is not None) == (how is How.ABSENT)
    if found:
        assert (found is Mismatch.POD_LOST) == (backend is BackendName.KUBERNETES)
