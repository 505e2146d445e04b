"""What the live half does not have yet is folded and bounded; its hashes hold the whole record."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.ledger.live.backlog import CHANGES_MAX, Backlog
from hybrid_executor.ledger.live.hashes import fields_of, fields_of_change, record_from
from hybrid_executor.ledger.rows import apply
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from tests.contract.ledger_suite import START, a_full_record, a_record

TEXTS = st.text(max_size=30)


@given(message=st.none() | TEXTS, queue=TEXTS, exit_code=st.none() | st.integers(-(2**31), 2**31 - 1))
def test_a_hash_holds_all_of_a_record_that_a_database_would(
    message: str | None, queue: str, exit_code: int | None
) -> None:
    for record in (a_record(queue=queue), a_full_record(message=message, exit_code=exit_code, queue=queue)):
        found = record_from(fields_of(record))
        if "\x00" not in f"{message}{queue}":
            assert found == record
        else:
            assert "\x00" not in f"{found.message}{found.queue}"


def test_text_that_no_client_could_send_is_made_sendable() -> None:
    fields = fields_of(a_full_record(message="killed \ud800", where="x" * 100_000))
    "".join(fields.values()).encode()
    assert len(fields["ran_on"]) < 100_000


def replayed(record: SubmissionRecord, backlog: Backlog) -> SubmissionRecord:
    """The record after what the backlog would have written."""
    fields = fields_of(record)
    for operation, _, _, flat in backlog.take(100):
        if operation != "new" and "ended_at" not in fields:
            fields |= dict(zip(flat[::2], flat[1::2], strict=True))
    return record_from(fields)


CHANGES = st.lists(
    st.one_of(
        st.builds(lambda n: {"exit_code": n}, st.integers(0, 99)),
        st.builds(lambda n: {"started_at": START + timedelta(seconds=n)}, st.integers(0, 99)),
        st.just({"ended_at": START, "outcome": Outcome.FAILED}),
    ),
    max_size=3 * CHANGES_MAX,
)


@given(changes=CHANGES)
def test_what_is_folded_has_the_effect_of_all_in_turn(changes: list[dict[str, object]]) -> None:
    record = expected = a_record()
    backlog = Backlog()
    backlog.add([record], [])
    for values in changes:
        change = Change(id=record.id, **values)  # type: ignore[arg-type]
        expected = apply(change, expected)
        backlog.add([], [change])
    assert replayed(record, backlog) == expected
    assert len(backlog) == 0


def test_one_submission_never_fills_the_backlog() -> None:
    record, backlog = a_record(), Backlog()
    for number in range(10_000):
        backlog.add([], [Change(id=record.id, exit_code=number)])
    assert len(backlog._entries[record.id].changes) <= CHANGES_MAX
    [(operation, attempt, submission, fields)] = backlog.take(10)
    assert (operation, attempt, submission) == ("change", record.id.attempt_id, "1")
    assert fields == ["exit_code", "9999"]


def test_too_much_is_let_go_and_said_once() -> None:
    backlog = Backlog(entries_max=3)
    backlog.add([a_record() for _ in range(3)], [])
    assert not backlog.overflowed()
    backlog.add([a_record()], [])
    assert len(backlog) == 0
    assert backlog.overflowed()
    assert not backlog.overflowed()


def test_a_change_without_values_makes_no_fields() -> None:
    assert fields_of_change(Change(id=a_record().id)) == {}
