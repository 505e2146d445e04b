"""What an answer of the API server means; pure.

``Answer`` is the server's own no, whole; ``creation_answer`` says what it
means for a submission. Back-pressure is no failure: quota, conflict,
throttling, lacking permissions and every 5xx make the submission wait. Only a
pod that the server calls invalid, or that a policy of the cluster denies, is
rejected: the same pod would be denied for ever. Where one code has several
meanings, the server's words decide; tests hold the answers of a real one.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.errors import ApiUnavailable, HybridExecutorError
from hybrid_executor.model.observation import Diagnosis, Rejected, Waiting
from hybrid_executor.model.reason import Reason

#: Waits at the least so long before the same pod is sent again. The executor adds its backoff.
QUOTA_RETRY_S = 5.0
FORBIDDEN_RETRY_S = 10.0
CONFLICT_RETRY_S = 1.0
UNAVAILABLE_RETRY_S = 1.0
THROTTLED_RETRY_S = 1.0
#: No Retry-After is honoured beyond this: a proxy that says "tomorrow" is not believed.
RETRY_AFTER_MAX_S = 300.0
#: Longest message that is kept; the rest is of no use to a person.
MESSAGE_MAX = 2000

#: What ResourceQuota and LimitRange say when they refuse (403, as for lacking permissions).
QUOTA_WORDS = re.compile(
    r"exceeded quota: |failed quota: |status unknown for quota: |insufficient quota to "
    r"|m(?:in|ax)imum \S+ usage per |max limit to request ratio per "
)
#: What says that a policy has judged this pod, whatever code it chose: Pod Security,
#: admission webhooks and ValidatingAdmissionPolicies. RBAC never sees a pod.
DENIAL_WORDS = re.compile(
    r'violates PodSecurity "|admission webhook ".*" denied the request'
    r"|ValidatingAdmissionPolicy '.*' (?:with binding '.*' )?denied request"
)
#: A pod between 1.5 and 3 MiB passes the API server's own limit (413) and is a 500 of its store.
TOO_LARGE_WORDS = re.compile(r"etcdserver: request is too large|trying to send message larger than max")
#: What says that a deletion meant another object, which had the same name.
OTHER_UID_WORDS = re.compile(r"UID in (?:the )?precondition")


class Answer(HybridExecutorError):
    """The API server said no. Stays inside this package."""

    def __init__(self, code: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        #: The machine's word for it, e.g. ``AlreadyExists``.
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def is_too_large(self) -> bool:
        """What was sent will never fit."""
        return self.code == 413 or (self.code == 500 and TOO_LARGE_WORDS.search(self.message) is not None)

    @property
    def is_about_existence(self) -> bool:
        """What was to be made is there, or what was to be replaced is not."""
        return self.code == 404 or (self.code == 409 and self.reason == "AlreadyExists")

    @property
    def is_absence(self) -> bool:
        """The object that was meant is not there, though another may bear its name."""
        return self.code == 404 or (self.code == 409 and OTHER_UID_WORDS.search(self.message) is not None)

    @property
    def is_back_pressure(self) -> bool:
        """The server is alive and asks for patience."""
        return (self.code == 429 or self.code >= 500) and not self.is_too_large


def read_answer(code: int, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Make an ``Answer`` of a response; the body may be a Status, plain text or nothing."""
    status = _status(body)
    message = str(status.get("message") or body[:MESSAGE_MAX].decode("utf-8", "replace"))
    return Answer(code, str(status.get("reason") or ""), message[:MESSAGE_MAX], _retry_after_s(headers))


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        status = json.loads(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds; the form with a date is not used by API servers and is ignored."""
    text = headers.get("Retry-After", "")
    return min(float(text), RETRY_AFTER_MAX_S) if text.isdecimal() else None


def creation_answer(submission: SubmissionId, answer: Answer) -> Waiting | Rejected:
    """What a refused creation (other than AlreadyExists) means for the submission."""
    if is_denial(answer):
        message = f"a policy of the cluster denies the pod: {answer.message}"
        return Rejected(submission, Diagnosis(reason=Reason.REFUSED, message=message))
    if answer.code in (400, 422) or answer.is_too_large:
        message = f"the API server calls the pod invalid: {answer.message}"
        return Rejected(submission, Diagnosis(reason=Reason.INVALID_POD, message=message))
    reason, at_least_s = wait_of(answer)
    return Waiting(submission, reason, answer.message, retry_after_s=answer.retry_after_s or at_least_s)


def secret_answer(submission: SubmissionId, answer: Answer) -> Waiting:
    """What it means that the Secret of a workload was refused: always a wait.

    It is the same for every task, so what the server calls wrong with it is for
    an administrator to mend, and no attempt is to fail of it.
    """
    if is_denial(answer) or answer.code in (400, 422) or answer.is_too_large:
        reason, at_least_s = Reason.FORBIDDEN, FORBIDDEN_RETRY_S
    else:
        reason, at_least_s = wait_of(answer)
    message = f"the Secret of the workload was refused: {answer.message}"
    return Waiting(submission, reason, message, retry_after_s=answer.retry_after_s or at_least_s)


def is_denial(answer: Answer) -> bool:
    """Whether a policy denied the pod itself; one that asks for patience (409, 429, 5xx) did not."""
    patient = answer.code == 409 or answer.is_back_pressure
    return not patient and DENIAL_WORDS.search(answer.message) is not None


def wait_of(answer: Answer) -> tuple[Reason, float]:
    """The reason to wait for, and the least time in seconds."""
    match answer.code:
        case 403 if QUOTA_WORDS.search(answer.message):
            return Reason.QUOTA, QUOTA_RETRY_S
        # 404 answers a creation where the namespace is missing: somebody is still to make it.
        case 401 | 403 | 404:
            return Reason.FORBIDDEN, FORBIDDEN_RETRY_S
        case 409 | 410:
            return Reason.CONFLICT, CONFLICT_RETRY_S
        case 429:
            return Reason.THROTTLED, THROTTLED_RETRY_S
    return Reason.API_UNAVAILABLE, UNAVAILABLE_RETRY_S


def wait_for_api(submission: SubmissionId, error: ApiUnavailable) -> Waiting:
    """No answer came, so the pod may exist or not; sending it again under its name is harmless."""
    return Waiting(submission, error.reason, str(error), error.retry_after_s or UNAVAILABLE_RETRY_S)
