"""The door to the Kubernetes provider's pod generator, and the maker of every pod.

Most pods are plain data and are built by ``pods.build`` alone. Those with a
``pod_override``, or with Airflow 2's dictionary, which is translated into one,
and all of them where a ``pod_mutation_hook`` is installed, pass through the
provider's own merge and hook, in the stock order: template, the executor's
values, override, hook. Whatever these do wrong fails that one attempt by name;
nothing but ``InvalidPod`` leaves. Opens no file: the caller brings the
templates. Called by the Kubernetes backend; the provider and the Kubernetes
client are imported when first needed.
"""
# ruff: noqa: PLC0415 - most schedulers build all their pods without the provider and its client

import json
import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from hybrid_executor.backends.kubernetes.models import Models, models
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.attempt import Submission, TaskAddress
from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.pods.build import PodSettings, build_pod, seal, settings_of_route
from hybrid_executor.pods.layers import Layer, Stage
from hybrid_executor.pods.legacy import LEGACY_KEY, deprecation, refused, translate
from hybrid_executor.pods.template import PodTemplate

#: Hears of the manifest after each layer.
Seen = Callable[[Layer, Mapping[str, Any]], None]
_MESSAGE_MAX = 300
#: Tasks that are remembered for having been told of.
_NOTED_MAX = 4096

log = logging.getLogger(__name__)


class PodMaker:
    """Makes the pods of one scheduler; one thread at a time."""

    def __init__(
        self,
        settings: PodSettings,
        templates: Templates,
        coordinator: Callable[[str], Mapping[str, Any] | None] | None = None,
        *,
        clusters: Mapping[str, PodSettings] | None = None,
    ) -> None:
        """``coordinator`` gives what ``[sdk] queue_to_coordinator`` says about a queue.

        ``coordinator_extra`` is the real one. ``clusters`` are the settings of those that have names.
        """
        self._settings = {"": settings, **(clusters or {})}
        self._templates = templates
        self._coordinator = coordinator or (lambda _queue: None)
        #: DAG and task of which a deprecation was said.
        self._noted: set[tuple[str, str]] = set()

    def make(self, submission: Submission) -> dict[str, Any]:
        """The manifest to POST to its own ``metadata.namespace``; raises ``InvalidPod``."""
        return self._make(submission, seen=None)

    def trace(self, submission: Submission) -> list[Stage]:
        """The manifest after each layer that has a say, the one that ``make`` returns at the end."""
        config, extra = self._said(submission)
        route = submission.attempt.route
        if own := _own_template(config, extra):
            stages: list[Stage] = [(Layer.OWN_TEMPLATE, self._templates.at(own).document())]
        else:
            bare = self._templates.of_route(replace(route, pod_defaults=None))
            stages = [(Layer.TEMPLATE, bare.document())]
            if route.pod_defaults:
                stages.append((Layer.ROUTE, self._templates.of_route(route).document()))
        pod = self._make(submission, lambda layer, manifest: stages.append((layer, deepcopy(manifest))))
        return [*stages, (Layer.SEAL, pod)]

    def deprecation(self, submission: Submission) -> str:
        """What a task should write in place of what it does; empty if nothing."""
        legacy = _checked(submission.executor_config).get(LEGACY_KEY)
        return deprecation(legacy) if legacy else ""

    def _make(self, submission: Submission, seen: Seen | None) -> dict[str, Any]:
        config, extra = self._said(submission)
        route = submission.attempt.route
        settings = _with_image(settings_of_route(self._settings[route.cluster], route), extra)
        pod = build_pod(submission, self._template(submission, config, extra), settings)
        if seen:
            seen(Layer.EXECUTOR, pod)
        override = config.get("pod_override")
        if legacy := config.get(LEGACY_KEY):
            override = _translated(legacy)
            self._note(submission.attempt.address, legacy)
        hooked = mutation_hook_is_installed()
        if not override and not hooked:
            return pod
        return seal(_stock_layers(pod, override, submission, hooked=hooked, seen=seen), submission, settings)

    def _said(self, submission: Submission) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """What the task's ``executor_config`` and its queue's coordinator say."""
        return _checked(submission.executor_config), self._coordinator(submission.attempt.queue) or {}

    def _note(self, address: TaskAddress | None, legacy: Mapping[str, Any]) -> None:
        """Say once for each task what to write instead."""
        task = (address.dag_id, address.task_id) if address else ("", "")
        if task in self._noted:
            return
        if len(self._noted) >= _NOTED_MAX:
            self._noted.clear()
        self._noted.add(task)
        log.warning("%s.%s: %s", *task, deprecation(legacy))

    def _template(
        self, submission: Submission, config: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> PodTemplate:
        """The coordinator's, else the task's own, else the route's with the route's defaults.

        Whoever names another template than the route takes the place of both:
        the defaults were written for the template that they were laid over.
        """
        own = _own_template(config, extra)
        return self._templates.at(own) if own else self._templates.of_route(submission.attempt.route)


def _own_template(config: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    return str(extra.get("pod_template_file") or config.get("pod_template_file") or "")


def _checked(config: Any) -> Mapping[str, Any]:
    """The task's ``executor_config``; keys that are not ours belong to others and are let be."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise InvalidPod(f"executor_config: must be a dict, not {type(config).__name__}")
    legacy = config.get(LEGACY_KEY)
    if legacy and config.get("pod_override"):
        raise InvalidPod(
            f'executor_config: has both "pod_override" and "{LEGACY_KEY}"; keep pod_override alone'
        )
    if legacy and not isinstance(legacy, Mapping):
        raise InvalidPod(f'executor_config "{LEGACY_KEY}": must be a dict, not {type(legacy).__name__}')
    return config


def _translated(legacy: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionary of Airflow 1 and 2 as a partial pod that the client's models can hold."""
    client = models()
    plain: dict[str, Any] = {}
    for key, value in legacy.items():
        try:
            plain[key] = client.plain(value)
            client.override(translate({key: plain[key]}))
        except (AttributeError, KeyError, TypeError, ValueError, client.error) as error:
            raise refused(key, f"{type(error).__name__}: {_brief(error)}") from error
    return translate(plain)


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
    pod: dict[str, Any], override: Any, submission: Submission, *, hooked: bool, seen: Seen | None
) -> dict[str, Any]:
    """``pod`` with the override and the hook laid over it by the provider."""
    client = models()
    built = _overridden(client, pod, override)
    if seen and override:
        seen(Layer.POD_OVERRIDE, client.plain(built))
    if hooked:
        _run_hook(built, submission)
    try:
        manifest = client.plain(built)
        json.dumps(manifest)
    except (AttributeError, TypeError, ValueError) as error:
        layer = "pod_mutation_hook" if hooked else "pod_override"
        raise InvalidPod(f"{layer}: left a pod that is no JSON: {error}") from error
    if not isinstance(manifest, dict) or not (manifest.get("spec") or {}).get("containers"):
        raise InvalidPod("pod_mutation_hook: left a pod without containers")
    if seen and hooked:
        seen(Layer.POD_MUTATION_HOOK, manifest)
    return manifest


def _overridden(client: Models, pod: dict[str, Any], override: Any) -> Any:
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    base = client.model(pod)
    if not override:
        return base
    try:
        return PodGenerator.reconcile_pods(base, client.override(override))
    except (AttributeError, KeyError, TypeError, ValueError, client.error) as error:
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
