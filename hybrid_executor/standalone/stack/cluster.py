"""A cluster that the stack is given in place of its own: made ready, looked at, and left clean.

Speaks as the kubeconfig's user through the official client, whose credentials
may be of any kind. Never touches what is not the stack's: a namespace that was
there stays as it is, and pods are found by the label of this stack. Called by
:mod:`.stack`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import urllib3
import yaml
from kubernetes import client, config

#: On every pod of a stack, with a value of its own for each state folder.
LABEL = "hybrid-executor/stack"
REQUEST_S = 10.0
#: How long a new namespace may take to get its service account.
ACCOUNT_S = 30.0
POLL_S = 0.1
#: Grace of the pods that still run when the stack ends.
GRACE_S = 2
#: What a node of processes says about itself.
PROCESSES = "process://"


class ClusterUnusable(Exception):
    """The cluster that was given can't be used; the message names the kubeconfig and says why."""


@dataclass
class GivenCluster:
    """One namespace of a cluster, for one stack."""

    kubeconfig: Path
    namespace: str
    #: The value of ``LABEL``.
    label: str

    def prepare(self) -> str:
        """Make the namespace if it is not there, and wait until it takes pods; what was found, in words."""
        with self._said_plainly("can't be used"):
            version = client.VersionApi(self._api).get_code(_request_timeout=REQUEST_S).git_version
            self._make_namespace()
            self._wait_for_account()
        return f"{version} at {self._api.configuration.host}, namespace {self.namespace}"

    def doubts(self, airflow_url: str) -> list[str]:
        """Why pods may not run here, though they can be made."""
        try:
            nodes = self._core.list_node(_request_timeout=REQUEST_S).items
        except (client.ApiException, urllib3.exceptions.HTTPError) as refused:
            return [f"its nodes can't be seen: {_reason(refused)}"]
        others = [
            node.metadata.name
            for node in nodes
            if not node.status.node_info.container_runtime_version.startswith(PROCESSES)
        ]
        if not nodes:
            return ["it has no node: pods will wait"]
        return [_words(others, airflow_url)] if others else []

    def clear(self) -> list[str]:
        """Delete the pods of this stack that are left; what kept it from doing so."""
        try:
            with self._said_plainly("still holds pods of this stack"):
                self._core.delete_collection_namespaced_pod(
                    self.namespace,
                    label_selector=f"{LABEL}={self.label}",
                    grace_period_seconds=GRACE_S,
                    _request_timeout=REQUEST_S,
                )
        except ClusterUnusable as problem:
            return [str(problem)]
        return []

    @cached_property
    def _api(self) -> client.ApiClient:
        made = config.new_client_from_config(config_file=str(self.kubeconfig))
        made.configuration.retries = False
        return made

    @cached_property
    def _core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self._api)

    def _make_namespace(self) -> None:
        body = {"metadata": {"name": self.namespace}}
        try:
            self._core.create_namespace(body, _request_timeout=REQUEST_S)
        except client.ApiException as refused:
            # It is there; or it is for others to make, and then what follows says whether they have.
            if refused.status not in {403, 409}:
                raise

    def _wait_for_account(self) -> None:
        deadline = time.monotonic() + ACCOUNT_S
        while True:
            try:
                self._core.read_namespaced_service_account(
                    "default", self.namespace, _request_timeout=REQUEST_S
                )
            except client.ApiException as refused:
                if refused.status == 403:
                    return
                if refused.status != 404 or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    @contextmanager
    def _said_plainly(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (
            client.ApiException,
            config.ConfigException,
            urllib3.exceptions.HTTPError,
            yaml.YAMLError,
            OSError,
        ) as error:
            raise ClusterUnusable(f"{self.kubeconfig} {problem}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, client.ApiException):
        return f"{error.status} {error.reason}: {(error.body or '').strip()}"
    if isinstance(error, urllib3.exceptions.MaxRetryError):
        return str(error.reason)
    return str(error)


def _words(others: Sequence[str], airflow_url: str) -> str:
    names = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
    return (
        f"{names}: not a node of processes on this machine. A pod there finds neither an image nor "
        f"{airflow_url}, and its task will fail"
    )
