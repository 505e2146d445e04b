"""Turns manifests into the Kubernetes client's models and back, for what users write as such.

An override may be a ``V1Pod``, a manifest, or what Airflow's serialization
made of either; a mutation hook gets a ``V1Pod``. Called by ``podgenerator``;
the client is imported when the first of these is met.
"""
# ruff: noqa: PLC0415 - most schedulers build all their pods without the client

from collections.abc import Mapping
from functools import cache
from typing import Any


class Models:
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
        if (lost := first_lost(manifest, self.plain(pod))) is not None:
            raise ValueError(f"{lost}: unknown field")
        return pod


@cache
def models() -> Models:
    """One for the process."""
    return Models()


def first_lost(given: Any, kept: Any, path: str = "") -> str | None:
    """The first field of ``given`` that ``kept`` does not have: the client's models drop such."""
    if isinstance(given, Mapping):
        for key, value in given.items():
            here = f"{path}.{key}".removeprefix(".")
            if value is not None and (not isinstance(kept, Mapping) or key not in kept):
                return here
            if value is not None and (lost := first_lost(value, kept[key], here)) is not None:
                return lost
    if isinstance(given, list) and isinstance(kept, list):
        pairs = enumerate(zip(given, kept, strict=True))
        found = (first_lost(*pair, f"{path}[{index}]") for index, pair in pairs)
        return next((lost for lost in found if lost is not None), None)
    return None
