"""The contract of ``hybrid_executor.ports.Backend``: one suite, every implementation.

A backend's own test module subclasses ``BackendSuite`` as ``Test…`` and gives
a ``harness`` fixture (function scope) that implements ``Harness``; a backend
that keeps a witness of what has ended (a pod) subclasses ``WitnessSuite`` too.
The tests know the Protocol and the harness, nothing else. What only one
backend promises (names, reasons, counted requests) is tested beside it.
"""

import time
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from typing import Protocol

from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, How, Observation, Rejected, Started, Waiting
from hybrid_executor.ports import Backend
from tests.fixtures.collector import threads

#: No step of a healthy backend takes longer, however loaded the machine.
PATIENCE_S = 30.0
#: How long a test listens to be sure that nothing is said.
SILENCE_S = 0.6
#: A call that does no I/O returns well within this, even on a loaded machine.
AT_ONCE_S = 0.5


class Fate(StrEnum):
    """What happens to a submission once it is sent."""

    #: Starts and ends well by itself.
    SUCCEEDS = "succeeds"
    #: Starts and its process ends with an error.
    FAILS = "fails"
    #: Starts and runs until ``Harness.finish``.
    BLOCKS = "blocks"
    #: Is accepted and never starts: no worker on its queue, no node for its pod.
    PENDS = "pends"


class Harness(Protocol):
    """What a backend's own test module brings: the other side, and how to drive it."""

    #: The backend in use. The harness starts it before the test and stops it after.
    backend: Backend

    def unstarted(self) -> Backend:
        """Another backend on the same other side, constructed and nothing more."""

    def submission(self, fate: Fate, *, attempt_id: str | None = None, number: int = 1) -> Submission:
        """A submission with that fate; a new attempt unless one is named."""

    def sent_by_another(self, fate: Fate) -> tuple[SubmissionId, str]:
        """What another executor sent: the name that it is to get, and Airflow's id of the workload."""

    def finish(self, submission: SubmissionId) -> None:
        """Let one that blocks end well. Works while no backend is watching, too."""

    def break_other_side(self) -> None:
        """The broker or API server goes away: connections are cut and refused."""

    def restore_other_side(self) -> None:
        """It is back, with all that it knew."""

    def restart(self) -> Backend:
        """Replace ``backend`` by a started one of a new owner that knows nothing, as after a kill."""

    @property
    def owner(self) -> str:
        """The owner (scheduler job id) of the present backend."""


class WitnessHarness(Harness, Protocol):
    """Of a backend where something outlives an end."""

    def swept_by_others(self, submission: SubmissionId) -> bool:
        """Whether a witness of it is left that another owner's sweep would find."""


class Heard:
    """Everything that the harness's present backend has said, in order."""

    def __init__(self, harness: Harness, patience_s: float = PATIENCE_S) -> None:
        self._harness = harness
        self._patience_s = patience_s
        self.all: list[Observation] = []

    def listen(self) -> None:
        self.all += self._harness.backend.poll()

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Poll until ``done`` says so; else fails with what was heard instead."""
        deadline = time.monotonic() + self._patience_s
        while True:
            self.listen()
            if done():
                return
            assert time.monotonic() < deadline, f"waited for {what}, heard {self.all}"
            time.sleep(0.01)

    def silence(self, ids: Iterable[SubmissionId]) -> None:
        """Fails if anything more is said of these."""
        seen = len(self.all)
        deadline = time.monotonic() + SILENCE_S
        while time.monotonic() < deadline:
            self.listen()
            time.sleep(0.01)
        wanted = set(ids)
        assert [o for o in self.all[seen:] if o.submission in wanted] == []

    def of(self, submission: SubmissionId) -> list[Observation]:
        return [o for o in self.all if o.submission == submission]

    def until_kind(self, kind: type[Observation], ids: Collection[SubmissionId]) -> None:
        """Wait until each of ``ids`` was the subject of such an observation."""
        self.until(lambda: set(ids) <= {o.submission for o in self.all if isinstance(o, kind)}, kind.__name__)

    def end(self, submission: SubmissionId) -> Ended:
        """Wait for its first end."""
        self.until_kind(Ended, [submission])
        return next(o for o in self.of(submission) if isinstance(o, Ended))

    def wait(self, submission: SubmissionId) -> Waiting:
        """Wait for its first wait."""
        self.until_kind(Waiting, [submission])
        return next(o for o in self.of(submission) if isinstance(o, Waiting))


def elapsed_s(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


class BackendSuite:
    """What every backend promises."""

    # --- the way of a submission ------------------------------------------------

    def test_a_submission_is_accepted_then_starts_then_ends_well(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.SUCCEEDS), Heard(harness)
        harness.backend.submit([submission])
        assert heard.end(submission.id).how is How.SUCCEEDED
        kinds = [type(o) for o in heard.of(submission.id) if not isinstance(o, Waiting)]
        assert kinds[0] is Accepted
        assert kinds.index(Accepted) < kinds.index(Ended)
        accepted = next(o for o in heard.of(submission.id) if isinstance(o, Accepted))
        assert accepted.external_name

    def test_a_running_submission_says_where_it_runs(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.BLOCKS), Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Started, [submission.id])
        assert next(o for o in heard.of(submission.id) if isinstance(o, Started)).where
        assert not [o for o in heard.of(submission.id) if isinstance(o, Ended)]
        harness.finish(submission.id)
        assert heard.end(submission.id).how is How.SUCCEEDED

    def test_a_failing_submission_ends_with_a_diagnosis(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.FAILS), Heard(harness)
        harness.backend.submit([submission])
        end = heard.end(submission.id)
        assert end.how is How.FAILED
        assert end.diagnosis is not None
        assert end.diagnosis.reason

    def test_every_submission_of_a_batch_is_answered(self, harness: Harness) -> None:
        batch = [harness.submission(Fate.PENDS) for _ in range(25)]
        heard = Heard(harness)
        harness.backend.submit(batch)
        heard.until_kind(Accepted, [s.id for s in batch])
        names = {o.external_name for o in heard.all if isinstance(o, Accepted)}
        assert len(names) == len(batch)

    def test_a_submission_that_cannot_start_yet_is_held_by_the_backend(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.PENDS), Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Accepted, [submission.id])
        heard.silence([])
        assert not [o for o in heard.of(submission.id) if isinstance(o, Started | Ended | Rejected)]
        waits = [o for o in heard.of(submission.id) if isinstance(o, Waiting)]
        assert all(o.retry_after_s is None for o in waits)

    def test_an_empty_batch_and_unknown_ids_do_no_harm(self, harness: Harness) -> None:
        stranger = harness.submission(Fate.BLOCKS).id
        harness.backend.submit([])
        harness.backend.cancel([])
        harness.backend.adopt([])
        harness.backend.inherit({})
        harness.backend.release([])
        harness.backend.release([stranger])
        submission, heard = harness.submission(Fate.SUCCEEDS), Heard(harness)
        harness.backend.submit([submission])
        assert heard.end(submission.id).how is How.SUCCEEDED

    # --- twice is harmless --------------------------------------------------------

    def test_handing_a_running_submission_over_again_does_no_harm(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.BLOCKS), Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Started, [submission.id])
        harness.backend.submit([submission])
        heard.silence([])
        assert not [o for o in heard.of(submission.id) if isinstance(o, Ended | Rejected)]
        harness.finish(submission.id)
        assert heard.end(submission.id).how is How.SUCCEEDED

    def test_a_later_submission_of_an_attempt_is_another_thing(self, harness: Harness) -> None:
        first, heard = harness.submission(Fate.FAILS), Heard(harness)
        harness.backend.submit([first])
        assert heard.end(first.id).how is How.FAILED
        second = harness.submission(Fate.SUCCEEDS, attempt_id=first.attempt.id, number=2)
        harness.backend.submit([second])
        assert heard.end(second.id).how is How.SUCCEEDED
        names = [o.external_name for o in heard.all if isinstance(o, Accepted)]
        assert len(set(names)) == 2

    def test_an_end_is_told_once(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.SUCCEEDS), Heard(harness)
        harness.backend.submit([submission])
        heard.end(submission.id)
        heard.silence([submission.id])

    # --- cancel ---------------------------------------------------------------------

    def test_a_running_submission_that_is_cancelled_ends_as_cancelled(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.BLOCKS), Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Started, [submission.id])
        harness.backend.cancel([submission.id])
        assert heard.end(submission.id).how is How.CANCELLED

    def test_a_pending_submission_that_is_cancelled_ends_as_cancelled(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.PENDS), Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Accepted, [submission.id])
        harness.backend.cancel([submission.id])
        assert heard.end(submission.id).how is How.CANCELLED

    # --- inherit ---------------------------------------------------------------------

    def test_what_another_executor_sent_is_watched_under_the_name_that_it_gets(
        self, harness: Harness
    ) -> None:
        (ends_well, first), (fails, second) = (
            harness.sent_by_another(fate) for fate in (Fate.BLOCKS, Fate.FAILS)
        )
        harness.restart().inherit({ends_well: first, fails: second})
        heard = Heard(harness)
        heard.until_kind(Started, [ends_well])
        harness.finish(ends_well)
        assert heard.end(ends_well).how is How.SUCCEEDED
        assert heard.end(fails).how is How.FAILED

    def test_while_the_other_side_is_away_an_inheritance_goes_on_by_itself(self, harness: Harness) -> None:
        submission, workload_id = harness.sent_by_another(Fate.BLOCKS)
        harness.restart()
        harness.break_other_side()
        heard = Heard(harness)
        harness.backend.inherit({submission: workload_id})
        heard.silence([submission])
        harness.restore_other_side()
        heard.until_kind(Started, [submission])

    # --- adopt ----------------------------------------------------------------------

    def test_a_running_submission_is_adopted_and_its_end_is_seen(self, harness: Harness) -> None:
        submission = harness.submission(Fate.BLOCKS)
        harness.backend.submit([submission])
        Heard(harness).until_kind(Started, [submission.id])
        harness.restart().adopt([submission.id])
        heard = Heard(harness)
        heard.until_kind(Started, [submission.id])
        assert not [o for o in heard.of(submission.id) if isinstance(o, Ended | Rejected)]
        harness.finish(submission.id)
        assert heard.end(submission.id).how is How.SUCCEEDED

    def test_a_pending_submission_is_adopted_as_held(self, harness: Harness) -> None:
        submission = harness.submission(Fate.PENDS)
        harness.backend.submit([submission])
        Heard(harness).until_kind(Accepted, [submission.id])
        harness.restart().adopt([submission.id])
        heard = Heard(harness)
        assert heard.wait(submission.id).retry_after_s is None

    def test_an_end_that_nobody_saw_is_told_on_adoption(self, harness: Harness) -> None:
        submission = harness.submission(Fate.BLOCKS)
        harness.backend.submit([submission])
        Heard(harness).until_kind(Started, [submission.id])
        harness.backend.stop(5.0)
        harness.finish(submission.id)
        harness.restart().adopt([submission.id])
        assert Heard(harness).end(submission.id).how is How.SUCCEEDED

    def test_what_was_never_sent_is_absent(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.BLOCKS), Heard(harness)
        harness.backend.adopt([submission.id])
        assert heard.end(submission.id).how is How.ABSENT

    def test_adopting_what_this_backend_sent_itself_answers_too(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.BLOCKS), Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Started, [submission.id])
        again = Heard(harness)
        harness.backend.adopt([submission.id])
        again.until_kind(Started, [submission.id])
        harness.finish(submission.id)
        assert again.end(submission.id).how is How.SUCCEEDED

    def test_an_adopted_submission_can_be_cancelled(self, harness: Harness) -> None:
        submission = harness.submission(Fate.BLOCKS)
        harness.backend.submit([submission])
        Heard(harness).until_kind(Started, [submission.id])
        harness.restart().adopt([submission.id])
        heard = Heard(harness)
        heard.until_kind(Started, [submission.id])
        harness.backend.cancel([submission.id])
        assert heard.end(submission.id).how is How.CANCELLED

    # --- the other side is away -----------------------------------------------------

    def test_while_the_other_side_is_away_submissions_wait_and_go_later(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.SUCCEEDS), Heard(harness)
        harness.break_other_side()
        harness.backend.submit([submission])
        wait = heard.wait(submission.id)
        assert wait.retry_after_s is not None
        assert not [o for o in heard.of(submission.id) if isinstance(o, Rejected | Ended)]
        harness.restore_other_side()
        self._submit_until_accepted(harness, heard, submission)
        assert heard.end(submission.id).how is How.SUCCEEDED

    def test_it_says_that_nothing_answers_and_that_it_is_answered_again(self, harness: Harness) -> None:
        heard = Heard(harness)
        assert harness.backend.troubles[""] is None
        harness.break_other_side()
        waiting = [harness.submission(Fate.BLOCKS) for _ in range(5)]
        harness.backend.submit(waiting)
        heard.until(lambda: harness.backend.troubles[""] is not None, "word of the outage")
        assert harness.backend.troubles[""]
        harness.restore_other_side()
        self._submit_until_accepted(harness, heard, waiting[0])
        heard.until(lambda: harness.backend.troubles[""] is None, "word of its end")

    def test_a_backend_starts_while_the_other_side_is_away(self, harness: Harness) -> None:
        harness.break_other_side()
        submission = harness.submission(Fate.SUCCEEDS)
        assert elapsed_s(harness.restart) < PATIENCE_S / 3
        heard = Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Waiting, [submission.id])
        harness.restore_other_side()
        self._submit_until_accepted(harness, heard, submission)
        assert heard.end(submission.id).how is How.SUCCEEDED

    def test_a_look_up_goes_on_until_the_other_side_is_back(self, harness: Harness) -> None:
        running, never_sent = harness.submission(Fate.BLOCKS), harness.submission(Fate.BLOCKS)
        harness.backend.submit([running])
        Heard(harness).until_kind(Started, [running.id])
        harness.break_other_side()
        harness.restart().adopt([running.id, never_sent.id])
        heard = Heard(harness)
        heard.silence([running.id, never_sent.id])
        harness.restore_other_side()
        heard.until_kind(Started, [running.id])
        assert heard.end(never_sent.id).how is How.ABSENT
        harness.finish(running.id)
        assert heard.end(running.id).how is How.SUCCEEDED

    def test_an_outage_in_the_middle_of_a_run_loses_no_end(self, harness: Harness) -> None:
        submission, heard = harness.submission(Fate.BLOCKS), Heard(harness)
        harness.backend.submit([submission])
        heard.until_kind(Started, [submission.id])
        harness.break_other_side()
        heard.silence([submission.id])
        harness.restore_other_side()
        harness.finish(submission.id)
        assert heard.end(submission.id).how is How.SUCCEEDED

    # --- calls return at once; nothing is left behind -----------------------------------

    def test_no_call_blocks_while_the_other_side_is_away(self, harness: Harness) -> None:
        submission = harness.submission(Fate.PENDS)
        harness.break_other_side()
        backend = harness.backend
        calls: list[Callable[[], object]] = [
            lambda: backend.submit([submission]),
            lambda: backend.cancel([harness.submission(Fate.PENDS).id]),
            lambda: backend.adopt([harness.submission(Fate.PENDS).id]),
            lambda: backend.sweep([harness.owner]),
            lambda: backend.release([harness.submission(Fate.PENDS).id]),
            backend.poll,
        ]
        # Who waits for an answer does so each time; a busy machine may stop this thread at any.
        assert max(min(elapsed_s(call) for _ in range(3)) for call in calls) < AT_ONCE_S

    def test_stopping_keeps_its_deadline_while_the_other_side_is_away(self, harness: Harness) -> None:
        harness.break_other_side()
        harness.backend.submit([harness.submission(Fate.PENDS) for _ in range(20)])
        harness.backend.adopt([harness.submission(Fate.PENDS).id])
        # What it waits for never comes; what it may take beyond its deadline is a busy machine's.
        assert elapsed_s(lambda: harness.backend.stop(3.0)) < 3.0 + PATIENCE_S / 3

    def test_stopping_twice_and_stopping_what_never_started_do_no_harm(self, harness: Harness) -> None:
        harness.backend.stop(5.0)
        harness.backend.stop(5.0)
        harness.unstarted().stop(5.0)

    def test_a_stopped_backend_leaves_what_runs_running(self, harness: Harness) -> None:
        submission = harness.submission(Fate.BLOCKS)
        harness.backend.submit([submission])
        Heard(harness).until_kind(Started, [submission.id])
        harness.backend.stop(5.0)
        harness.restart().adopt([submission.id])
        Heard(harness).until_kind(Started, [submission.id])
        harness.finish(submission.id)
        assert Heard(harness).end(submission.id).how is How.SUCCEEDED

    def test_constructing_starts_no_thread_and_stopping_leaves_none(self, harness: Harness) -> None:
        harness.backend.stop(5.0)
        before = threads()
        backend = harness.unstarted()
        assert threads() == before
        backend.start()
        backend.stop(5.0)
        assert threads() <= before

    def test_a_log_never_raises_and_needs_no_start(self, harness: Harness) -> None:
        attempt_id = harness.submission(Fate.BLOCKS).attempt.id
        assert harness.unstarted().log(attempt_id) is None
        harness.break_other_side()
        assert harness.unstarted().log(attempt_id) is None

    @staticmethod
    def _submit_until_accepted(harness: Harness, heard: Heard, submission: Submission) -> None:
        """What the executor does with a submission that the backend has let go."""
        answered = len(heard.of(submission.id))

        def accepted_or_sent_again() -> bool:
            nonlocal answered
            answers = heard.of(submission.id)
            if any(isinstance(o, Accepted) for o in answers):
                return True
            if len(answers) > answered:
                answered = len(answers)
                harness.backend.submit([submission])
            return False

        harness.backend.submit([submission])
        heard.until(accepted_or_sent_again, "acceptance")


class WitnessSuite:
    """What a backend promises besides, if something outlives the end of a submission (its pod)."""

    def test_a_sweep_answers_the_ends_that_a_dead_owner_left(self, harness: WitnessHarness) -> None:
        ended, living = harness.submission(Fate.BLOCKS), harness.submission(Fate.BLOCKS)
        harness.backend.submit([ended, living])
        Heard(harness).until_kind(Started, [ended.id, living.id])
        harness.backend.stop(5.0)
        harness.finish(ended.id)
        harness.restart().sweep([harness.owner])
        heard = Heard(harness)
        assert heard.end(ended.id).how is How.SUCCEEDED
        assert heard.of(living.id) == []

    def test_a_sweep_leaves_what_a_living_owner_has(self, harness: WitnessHarness) -> None:
        submission, former = harness.submission(Fate.BLOCKS), harness.owner
        harness.backend.submit([submission])
        Heard(harness).until_kind(Started, [submission.id])
        harness.backend.stop(5.0)
        harness.finish(submission.id)
        harness.restart().sweep([harness.owner, former])
        Heard(harness).silence([submission.id])

    def test_what_is_released_is_swept_by_nobody(self, harness: WitnessHarness) -> None:
        submission, heard = harness.submission(Fate.SUCCEEDS), Heard(harness)
        harness.backend.submit([submission])
        heard.end(submission.id)
        assert harness.swept_by_others(submission.id)
        harness.backend.release([submission.id])
        heard.until(lambda: not harness.swept_by_others(submission.id), "its release")
        heard.silence([submission.id])
        harness.restart().sweep([harness.owner])
        Heard(harness).silence([submission.id])
