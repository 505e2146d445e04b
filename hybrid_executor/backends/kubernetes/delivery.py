"""Gives a pod its workload: the Secret of the pod's name, owned by the pod, right after it was made.

If the Secret is refused, the pod is taken back, because it could never start
and would hold what it requests; no other pod is made in that namespace for a
while. Where no answer came, the pod stays, and the Secret is sent again when
the submission is. It only ever creates and replaces: what is there can't be
read. Called by ``creation``; the order of things is
``docs/adr/0009-the-workload-is-in-a-secret.md``.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from hybrid_executor.backends.kubernetes.answer import Answer, secret_answer, wait_for_api
from hybrid_executor.backends.kubernetes.book import Book, Known, our_labels
from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.gate import Gate
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.model.observation import Waiting
from hybrid_executor.naming import LABEL_OWNER
from hybrid_executor.pods.workload import workload_secret


class Delivery:
    """Sends Secrets for the pods of one cluster."""

    def __init__(self, api: PodApi, book: Book, gate: Gate, config: KubernetesConfig) -> None:
        """``gate`` is that of all requests which make something."""
        self._api = api
        self._book = book
        self._gate = gate
        self._config = config
        #: By namespace: closed where a Secret was refused, for every other one would be.
        self._refused: defaultdict[str, Gate] = defaultdict(Gate)

    def wait(self, namespace: str, submission: SubmissionId) -> Waiting | None:
        """What to say in place of making a pod whose Secret would be refused."""
        return self._refused[namespace].wait(submission)

    async def deliver(self, submission: Submission, pod: Known, *, is_new: bool) -> Waiting | None:
        """Send the workload of a pod that lacks it; None where the book tells what came of it.

        A pod of an earlier hand-over may have its Secret already, so where the
        server merely asks for patience it stays.
        """
        try:
            await self._put(pod.namespace, self._secret(submission, pod), is_new=is_new)
        except ApiUnavailable as error:
            return self._gate.close(wait_for_api(submission.id, error))
        except Answer as answer:
            wait = secret_answer(submission.id, answer)
            if answer.is_back_pressure:
                self._gate.close(wait)
                if not is_new:
                    return wait
            self._refused[pod.namespace].close(wait)
            self._book.take_back(submission.id, wait)
            return None
        self._refused[pod.namespace].open()
        self._book.complete(submission.id)
        return None

    def _secret(self, submission: Submission, pod: Known) -> dict[str, Any]:
        labels = our_labels(submission.id, "", self._config)
        # Who answers for a pod may change; no right to change a Secret's labels is needed for that.
        del labels[LABEL_OWNER]
        return workload_secret(pod, labels, submission.payload)

    async def _put(self, namespace: str, secret: Mapping[str, Any], *, is_new: bool) -> None:
        """Create it, or replace what is there: the token is newer, and the pod may be another.

        A pod that is not new has one, as a rule, and a quota that is used up
        refuses to create even what exists. The third request is for a Secret
        that goes in between, with a former pod of the name.
        """
        create, replace = self._api.create_secret, self._api.replace_secret
        first, second = (create, replace) if is_new else (replace, create)
        for request in (first, second):
            try:
                return await request(namespace, secret)
            except Answer as answer:
                if not answer.is_about_existence:
                    raise
        return await first(namespace, secret)
