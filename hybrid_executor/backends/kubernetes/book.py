"""What is known of our pods, and what follows from each thing that is seen of them.

``Book`` does no I/O. It is told what the watch and direct answers show, says
observations, and orders the few things that have to be done: delete a pod,
dispose of one whose end is recorded, look one up that may be gone. Its rules:

- What has ended has ended: one end is said for each submission.
- A pod that an answer proved to exist is not missing from a list that began
  before that answer (a lagging view never reports it absent).
- A pod that vanished without our doing may have been adopted by another
  scheduler, so it is looked up before its end is said.
- A pod is accepted once its workload's Secret is. One that is made right now
  is not spoken of before; of any other whose Secret may be missing (it was
  adopted, or a reply was lost) it is said that it lacks its payload.
- A pod that was taken back (its Secret was refused) never ran: no end is said,
  but the wait, and that only when the watch has shown the name to be free.

All calls come from the loop's thread.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.fatal import FatalWaits, Verdict
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Diagnosis, Ended, How, Observation, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.resources import Resources
from hybrid_executor.naming import (
    LABEL_ATTEMPT,
    LABEL_CLUSTER,
    LABEL_DEPLOYMENT,
    LABEL_DONE,
    LABEL_EXECUTOR,
    LABEL_OWNER,
    LABEL_SUBMISSION,
)
from hybrid_executor.pods.diagnosis import PodPhase, PodView, observe
from hybrid_executor.pods.workload import mounts_workload

Pod = Mapping[str, Any]


#: Kubelet tries a mount again after at most 122 s. Until then a pod without its volumes is just pending.
MOUNT_PATIENCE_S = 130.0
NO_SANDBOX = "its volumes can't be mounted, or its network can't be made: kubectl describe pod {} says which"


class Order(StrEnum):
    """What is to be done about a pod."""

    #: Withdraw it; it may still run.
    DELETE = "delete"
    #: Its end is recorded: delete or mark it, as the settings say.
    DISPOSE = "dispose"
    #: It left the watch; find out whether it is gone.
    LOOK_UP = "look up"


@dataclass(slots=True, kw_only=True)
class Known:
    """One pod of ours."""

    id: SubmissionId
    namespace: str
    name: str
    uid: str
    #: When something last proved that it exists; monotonic, in seconds.
    seen_at: float
    where: str = ""
    wait: tuple[Reason, str] | None = None
    #: When it had all that it needs, its Secret among it; monotonic, in seconds.
    accepted_at: float = 0.0
    has_no_sandbox: bool = False
    #: Its Secret is not known to be there, and it can't start without.
    lacks_workload: bool = False
    #: It is being deleted since its Secret was refused; said when it is gone.
    taken_back: Waiting | None = None
    #: Withdrawn on our side; its end is a cancellation.
    cancelled: bool = False
    #: It can never start; it is being deleted, and this will be why it ended.
    condemned: Verdict | None = None
    #: Its task has ended and a sidecar goes on.
    is_outlived: bool = False
    #: We have asked the API server for its deletion.
    deleting: bool = False
    #: Why somebody else is taking it down, if the pod says so.
    disruption: Diagnosis | None = None
    #: Vanished while nobody watched, so what it did last is not known.
    missed: bool = False
    released: bool = False
    #: What its task's container asked for, and took.
    resources: Resources | None = None
    #: By what host name its process asked in vain for leave to start.
    asked_as: str | None = None
    end: Ended | None = None

    @property
    def is_going(self) -> bool:
        """Whether we have ordered its deletion, or it has ended."""
        return bool(self.cancelled or self.condemned or self.taken_back or self.end)


def submission_of(pod: Pod) -> SubmissionId | None:
    """Whose pod it is, by its labels; None if it isn't one of this executor's."""
    labels = pod["metadata"].get("labels") or {}
    number = labels.get(LABEL_SUBMISSION, "")
    if LABEL_ATTEMPT not in labels or not number.isdecimal():
        return None
    return SubmissionId(labels[LABEL_ATTEMPT], int(number))


def our_labels(submission: SubmissionId, owner: str, config: KubernetesConfig) -> dict[str, str]:
    """What finds a pod again, whatever a template or mutation hook did to its labels."""
    return {
        LABEL_EXECUTOR: "True",
        LABEL_OWNER: owner,
        LABEL_DEPLOYMENT: config.deployment,
        LABEL_ATTEMPT: submission.attempt_id,
        LABEL_SUBMISSION: str(submission.number),
        **({LABEL_CLUSTER: config.cluster} if config.cluster else {}),
    }


def of_deployment(config: KubernetesConfig) -> str:
    """The selector of one Airflow's pods in one of its clusters."""
    cluster = f"{LABEL_CLUSTER}={config.cluster}" if config.cluster else f"!{LABEL_CLUSTER}"
    return f"{LABEL_DEPLOYMENT}={config.deployment},{cluster}"


def watch_selector(owner: str, config: KubernetesConfig) -> str:
    return f"{of_deployment(config)},{LABEL_OWNER}={owner},{LABEL_DONE}!=True"


class Book:
    """Every pod that this backend answers for, from its first sight to its disposal."""

    def __init__(
        self,
        say: Callable[[Observation], None],
        order: Callable[[Order, Known], None],
        fatal_waiting_reasons: Collection[str] = (),
        fatal_wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_being_made: Callable[[SubmissionId], bool] = lambda _: False,
    ) -> None:
        self._say = say
        self._order = order
        self._fatal_waits = FatalWaits(fatal_waiting_reasons, fatal_wait_s, clock)
        self._clock = clock
        self._is_being_made = is_being_made
        self._known: dict[SubmissionId, Known] = {}
        self._listing_began: dict[str | None, float] = {}

    def __contains__(self, submission: object) -> bool:
        return submission in self._known

    def __len__(self) -> int:
        return len(self._known)

    # --- what the watch shows (``watch.Sink``) --------------------------------------

    def listing(self, scope: str | None, began: float) -> None:
        self._listing_began[scope] = began

    def listed(self, scope: str | None) -> None:
        """Whatever the list did not name, and nothing has proved since, has vanished."""
        began = self._listing_began.pop(scope)
        for known in [k for k in self._known.values() if scope in (None, k.namespace) and k.seen_at < began]:
            known.missed = True
            self._vanished(known)

    def changed(self, pod: Pod) -> None:
        submission = submission_of(pod)
        if submission is None:
            return
        known = self._known.get(submission)
        if known is None:
            self._first_sight(submission, pod)
        elif known.uid == pod["metadata"]["uid"]:
            known.seen_at = self._clock()
            if known.end is None:
                self._follow(known, observe(pod), pod)

    def removed(self, pod: Pod) -> None:
        submission = submission_of(pod)
        known = self._known.get(submission) if submission else None
        if known is None or known.uid != pod["metadata"]["uid"]:
            return
        if known.end is None:
            self._follow(known, observe(pod), pod)
        if known.deleting:
            self.gone(known.id)  # as we asked
        else:
            self._vanished(known)

    def condemn_overdue(self) -> None:
        """Give up the pods whose fatal wait has lasted too long; to be called now and then."""
        for submission, verdict in self._fatal_waits.overdue().items():
            if (known := self._known.get(submission)) and known.end is None:
                self._condemn(known, verdict)

    # --- what direct answers show ---------------------------------------------------

    def created(self, pod: Pod) -> None:
        """A creation was answered. The watch may have been faster and know more."""
        submission = submission_of(pod)
        if submission in self._known:
            self._known[submission].seen_at = self._clock()
        else:
            self.changed(pod)

    def lacking(self, submission: SubmissionId) -> Known | None:
        """The pod of this submission, if it is there and its Secret may not be."""
        known = self._known.get(submission)
        return known if known and known.lacks_workload and not known.is_going else None

    def complete(self, submission: SubmissionId) -> None:
        """Its Secret was accepted."""
        known = self._known.get(submission)
        if known and known.lacks_workload and not known.end:
            self._accept(known)
            if known.wait:
                self._say(Waiting(submission, *known.wait))

    def take_back(self, submission: SubmissionId, wait: Waiting) -> None:
        """Its Secret was refused: have it deleted; ``wait`` lets the submission go when it is gone."""
        known = self.lacking(submission)
        if known:
            known.taken_back = wait
            self._say(replace(wait, retry_after_s=None))
            self._order(Order.DELETE, known)

    def gone(self, submission: SubmissionId) -> None:
        """A look-up has proved that the pod exists no more."""
        self._fatal_waits.settle(submission)
        known = self._known.pop(submission, None)
        if known and known.end is None:
            self._say(self._last_word(known))

    def forget(self, submission: SubmissionId) -> None:
        """Somebody else answers for it now, or it is disposed of."""
        self._fatal_waits.settle(submission)
        self._known.pop(submission, None)

    # --- what the executor asks -------------------------------------------------------

    def repeat(self, submission: SubmissionId) -> bool:
        """Say again how it stands; False if it is not known."""
        known = self._known.get(submission)
        if known is None:
            return False
        if known.end:
            self._say(known.end)
        elif known.where:
            self._say(Started(submission, known.where))
        elif known.taken_back:
            self._say(replace(known.taken_back, retry_after_s=None))
        else:
            if known.lacks_workload and not self._is_being_made(submission):
                self._say(Accepted(submission, _external_name(known), lacks_payload=True))
            self._say(Waiting(submission, *self._wait(known)))
        return True

    def cancel(self, submission: SubmissionId) -> bool:
        """Withdraw it; False if it is not known."""
        known = self._known.get(submission)
        if known is None:
            return False
        if known.end:
            self._say(known.end)
        elif not known.cancelled:
            known.cancelled = True
            self._order(Order.DELETE, known)
        return True

    def release(self, submissions: Iterable[SubmissionId]) -> None:
        """Their ends are recorded. One whose pod still runs is disposed of when it ends."""
        for known in [self._known[s] for s in submissions if s in self._known]:
            if not known.released:
                known.released = True
                if known.end:
                    self._order(Order.DISPOSE, known)

    # --- inside ---------------------------------------------------------------------

    def _first_sight(self, submission: SubmissionId, pod: Pod) -> None:
        view = observe(pod)
        known = Known(
            id=submission,
            namespace=view.namespace,
            name=view.name,
            uid=view.uid,
            seen_at=self._clock(),
            lacks_workload=mounts_workload(pod) and view.phase is PodPhase.PENDING and not view.started,
        )
        self._known[submission] = known
        if not known.lacks_workload:
            self._accept(known)
        self._follow(known, view, pod)
        if known.lacks_workload and not self._is_being_made(submission):
            self.repeat(submission)

    def _wait(self, known: Known) -> tuple[Reason, str]:
        """Why it has not started, with what only its age tells: a failed mount shows in events alone."""
        waited_s = self._clock() - known.accepted_at
        if known.has_no_sandbox and not known.lacks_workload and waited_s > MOUNT_PATIENCE_S:
            return (Reason.VOLUME, NO_SANDBOX.format(known.name))
        return known.wait or (Reason.POD_PENDING, "")

    def _accept(self, known: Known) -> None:
        known.lacks_workload = False
        known.accepted_at = self._clock()
        self._say(Accepted(known.id, _external_name(known)))

    def _follow(self, known: Known, view: PodView, pod: Pod) -> None:
        known.is_outlived, known.resources = view.is_outlived, view.resources
        known.asked_as = view.asked_as
        if view.started and known.lacks_workload:
            # Whatever the answer to its Secret was: it has it.
            self._accept(known)
            known.taken_back = None
        if view.phase is PodPhase.SUCCEEDED:
            self._end(known, How.SUCCEEDED, view.diagnosis)
        elif view.phase is PodPhase.FAILED:
            self._end(known, How.FAILED, view.diagnosis)
        elif view.started:
            self._follow_run(known, view)
        elif view.phase is PodPhase.PENDING:
            self._follow_wait(known, view, pod)

    def _follow_run(self, known: Known, view: PodView) -> None:
        if view.phase is PodPhase.DELETING:
            known.disruption = view.diagnosis
        if not known.where:
            self._fatal_waits.settle(known.id)
            known.where = f"{known.name} on {view.node or 'an unknown node'}"
            self._say(Started(known.id, known.where))

    def _follow_wait(self, known: Known, view: PodView, pod: Pod) -> None:
        known.has_no_sandbox = view.has_no_sandbox
        waits = view.waits or Diagnosis(reason=Reason.POD_PENDING)
        wait = (waits.reason, waits.message)
        if wait != known.wait:
            known.wait = wait
            if not known.lacks_workload:
                self._say(Waiting(known.id, *wait))
        if verdict := self._fatal_waits.see(known.id, waits, pod):
            self._condemn(known, verdict)

    def _condemn(self, known: Known, verdict: Verdict) -> None:
        if not known.condemned and not known.cancelled:
            known.condemned = verdict
            self._order(Order.DELETE, known)

    def _end(self, known: Known, how: How, diagnosis: Diagnosis | None) -> None:
        self._fatal_waits.settle(known.id)
        if known.taken_back and not known.cancelled:
            return  # a node fails what is deleted before it could start
        if known.cancelled:
            known.end = Ended(known.id, How.CANCELLED)
        elif known.condemned:
            known.end = _end_of_condemned(known.id, known.condemned)
        else:
            known.end = Ended(known.id, how, diagnosis, resources=known.resources, asked_as=known.asked_as)
        self._say(known.end)
        if known.released:
            self._order(Order.DISPOSE, known)

    def _vanished(self, known: Known) -> None:
        if known.end:
            self.forget(known.id)
        else:
            self._order(Order.LOOK_UP, known)

    def _last_word(self, known: Known) -> Ended | Waiting:
        # Where nobody watched, it may have run after all: then its name is not used again.
        if known.taken_back and not known.cancelled and not known.missed:
            return known.taken_back
        return self._end_of_missing(known)

    def _end_of_missing(self, known: Known) -> Ended:
        if known.cancelled:
            return Ended(known.id, How.CANCELLED)
        if known.condemned:
            return _end_of_condemned(known.id, known.condemned)
        if known.where:
            message = "the pod was deleted by somebody else while it ran"
            diagnosis = known.disruption or Diagnosis(reason=Reason.POD_DELETED, message=message)
            return Ended(known.id, How.FAILED, diagnosis, resources=known.resources)
        if known.missed:
            message = "the pod vanished while the API server could not be watched"
            return Ended(known.id, How.ABSENT, Diagnosis(reason=Reason.LOST, message=message))
        message = "the pod was deleted by somebody else before it started"
        return Ended(known.id, How.FAILED, Diagnosis(reason=Reason.POD_DELETED, message=message))


def _end_of_condemned(submission: SubmissionId, verdict: Verdict) -> Ended:
    return Ended(submission, How.FAILED, verdict.diagnosis, for_good=verdict.for_good)


def _external_name(known: Known) -> str:
    return f"{known.namespace}/{known.name}"
