"""What an answer of the API server means; pure.

``Answer`` is the server's own no, whole; ``creation_answer`` says what it
means for a submission. Back-pressure is no failure: quota, conflict,
throttling, lacking permissions and every 5xx make the submission wait, and
only a pod that the server calls invalid is rejected.
"""

import json
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

#: What a quota says when it refuses, and what it says while it is not counted yet.
QUOTA_WORDS = ("exceeded quota", "status unknown for quota", "maximum cpu usage", "maximum memory usage")


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
    def is_back_pressure(self) -> bool:
        """The server is alive and asks for patience."""
        return self.code == 429 or self.code >= 500


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
    if answer.code in (400, 413, 422):
        message = f"the API server calls the pod invalid: {answer.message}"
        return Rejected(submission, Diagnosis(reason=Reason.INVALID_POD, message=message))
    reason, at_least_s = wait_of(answer)
    return Waiting(submission, reason, answer.message, retry_after_s=answer.retry_after_s or at_least_s)


def wait_of(answer: Answer) -> tuple[Reason, float]:
    """The reason to wait for, and the least time in seconds."""
    match answer.code:
        case 403 if any(words in answer.message for words in QUOTA_WORDS):
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
