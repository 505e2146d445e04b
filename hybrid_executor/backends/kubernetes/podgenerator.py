"""The door to the Kubernetes provider's pod generator, and the maker of every pod.

Most pods are plain data and are built by ``pods.build`` alone. Those with a
``pod_override``, and all of them where a ``pod_mutation_hook`` is installed,
pass through the provider's own merge and hook, in the stock order: template,
the executor's values, override, hook. Whatever these do wrong fails that one
attempt by name; nothing but ``InvalidPod`` leaves. Opens no file: the caller
brings the templates. Called by the Kubernetes backend; the provider and the
Kubernetes client are imported when first needed.
"""
# ruff: noqa: PLC0415 - most schedulers build all their pods without the provider and its client

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.pods.build import PodSettings, build_pod, seal
from hybrid_executor.pods.template import PodTemplate

_MESSAGE_MAX = 300

log = logging.getLogger(__name__)


class PodMaker:
    """Makes the pods of one scheduler; one thread at a time."""

    def __init__(
        self,
        settings: PodSettings,
        templates: Templates,
        coordinator: Callable[[str], Mapping[str, Any] | None] | None = None,
    ) -> None:
        """``coordinator`` gives what ``[sdk] queue_to_coordinator`` says about a queue.

        ``coordinator_extra`` is the real one.
        """
        self._settings = settings
        self._templates = templates
        self._coordinator = coordinator or (lambda _queue: None)

    def make(self, submission: Submission) -> dict[str, Any]:
        """The manifest to POST to its own ``metadata.namespace``; raises ``InvalidPod``."""
        config = _checked(submission.executor_config)
        extra = self._coordinator(submission.attempt.queue) or {}
        settings = _with_image(self._settings, extra)
        pod = build_pod(submission, self._template(submission, config, extra), settings)
        override = config.get("pod_override")
        hooked = mutation_hook_is_installed()
        if not override and not hooked:
            return pod
        return seal(_stock_layers(pod, override, submission, hooked=hooked), submission, settings)

    def _template(
        self, submission: Submission, config: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> PodTemplate:
        """The coordinator's, else the task's own, else the route's with the route's defaults.

        Whoever names another template than the route takes the place of both:
        the defaults were written for the template that they were laid over.
        """
        own = extra.get("pod_template_file") or config.get("pod_template_file")
        return self._templates.at(str(own)) if own else self._templates.of_route(submission.attempt.route)


def _checked(config: Any) -> Mapping[str, Any]:
    """The task's ``executor_config``; keys that are not ours belong to others and are let be."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise InvalidPod(f"executor_config: must be a dict, not {type(config).__name__}")
    if config.get("KubernetesExecutor"):
        raise InvalidPod(
            'executor_config: the form {"KubernetesExecutor": {...}} ended with Airflow 2; '
            'write {"pod_override": kubernetes.client.models.V1Pod(...)} instead'
        )
    return config


def _with_image(settings: PodSettings, extra: Mapping[str, Any]) -> PodSettings:
    """A coordinator may name its own image; it needs both halves, as in stock."""
    repository, tag = extra.get("worker_container_repository"), extra.get("worker_container_tag")
    if not (repository and tag):
        return settings
    return replace(settings, image=f"{repository}:{tag}")


def coordinator_extra(queue: str) -> Mapping[str, Any] | None:
    """What ``[sdk] queue_to_coordinator`` declares for a queue; a broken section counts as none."""
    from airflow.sdk.exceptions import AirflowConfigException
    from airflow.sdk.execution_time.coordinator import get_coordinator_manager

    try:
        return get_coordinator_manager().extra_for_queue(queue)
    except (AirflowConfigException, ValueError) as error:
        log.warning("[sdk] queue_to_coordinator is ignored for queue %s: %s", queue, error)
        return None


def mutation_hook_is_installed() -> bool:
    """Whether ``airflow_local_settings`` or a policy plugin has a ``pod_mutation_hook``."""
    from airflow import settings

    # Replaced as a whole, or, as is usual, registered behind Airflow's own function.
    own = settings.pod_mutation_hook.__module__ == settings.__name__
    return not own or bool(settings.get_policy_plugin_manager().hook.pod_mutation_hook.get_hookimpls())


def _stock_layers(
    pod: dict[str, Any], override: Any, submission: Submission, *, hooked: bool
) -> dict[str, Any]:
    """``pod`` with the override and the hook laid over it by the provider."""
    models = _models()
    built = _overridden(models, pod, override)
    if hooked:
        _run_hook(built, submission)
    try:
        manifest = models.plain(built)
        json.dumps(manifest)
    except (AttributeError, TypeError, ValueError) as error:
        layer = "pod_mutation_hook" if hooked else "pod_override"
        raise InvalidPod(f"{layer}: left a pod that is no JSON: {error}") from error
    if not isinstance(manifest, dict) or not (manifest.get("spec") or {}).get("containers"):
        raise InvalidPod("pod_mutation_hook: left a pod without containers")
    return manifest


def _overridden(models: "_Models", pod: dict[str, Any], override: Any) -> Any:
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    base = models.model(pod)
    if not override:
        return base
    try:
        return PodGenerator.reconcile_pods(base, models.override(override))
    except (AttributeError, KeyError, TypeError, ValueError, models.error) as error:
        raise InvalidPod(f"pod_override: {type(error).__name__}: {_brief(error)}") from error


def _run_hook(pod: Any, submission: Submission) -> None:
    from airflow import settings

    hook: Callable[[Any], None] = settings.pod_mutation_hook
    try:
        hook(pod)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
        # Its text may show the pod, and the pod shows the token.
        text = _brief(error).replace(_token(submission.payload), "…")
        raise InvalidPod(f"pod_mutation_hook: {type(error).__name__}: {text}") from None


def _token(payload: str) -> str:
    return json.loads(payload).get("token") or payload


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _MESSAGE_MAX else text[: _MESSAGE_MAX - 1] + "…"


class _Models:
    """Turns manifests into the client's models and back, with one configuration for all of them.

    Each model holds a ``Configuration`` and each deep copy of a model copies
    it: 59 copies for one stock pod, almost half of its cost. Ours says of
    itself that it need not be copied; the process-wide default stays as it is.
    """

    def __init__(self) -> None:
        from kubernetes.client import ApiClient, Configuration, V1Pod
        from kubernetes.client.exceptions import OpenApiException

        class SharedConfiguration(Configuration):  # type: ignore[misc]
            def __deepcopy__(self, memo: object) -> "SharedConfiguration":
                return self

        self._client = ApiClient(configuration=SharedConfiguration())
        self._pod = V1Pod
        self.error: type[Exception] = OpenApiException

    def model(self, manifest: Mapping[str, Any]) -> Any:
        # The provider reads a manifest by this same private name (kubernetes-client/python#977).
        return self._client._ApiClient__deserialize_model(manifest, self._pod)  # noqa: SLF001

    def plain(self, pod: Any) -> Any:
        return self._client.sanitize_for_serialization(pod)

    def override(self, given: Any) -> Any:
        """A copy of the user's pod with our configuration; never the user's own object."""
        if isinstance(given, self._pod):
            return self.model(self.plain(given))
        if not isinstance(given, Mapping):
            raise TypeError(f"must be a kubernetes.client.models.V1Pod, not {type(given).__name__}")
        manifest = given["__var"] if given.get("__type") == "k8s.V1Pod" else given
        pod = self.model(manifest)
        if (lost := _first_lost(manifest, self.plain(pod))) is not None:
            raise ValueError(f"{lost}: unknown field")
        return pod


@cache
def _models() -> _Models:
    return _Models()


def _first_lost(given: Any, kept: Any, path: str = "") -> str | None:
    """The first field of ``given`` that ``kept`` does not have: the client's models drop such."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            here = f"{path}.{key}".removeprefix(".")
            if value is not None and (not isinstance(kept, Mapping) or key not in kept):
                return here
            if value is not None and (lost := _first_lost(value, kept[key], here)) is not None:
                return lost
    if isinstance(given, list) and isinstance(kept, list):
        pairs = enumerate(zip(given, kept, strict=True))
        found = (_first_lost(*pair, f"{path}[{index}]") for index, pair in pairs)
        return next((lost for lost in found if lost is not None), None)
    return None
