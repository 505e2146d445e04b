"""The answers that say no: one exception that is a ``Status`` of the Kubernetes API.

Raised by everything in this package that turns a request down; ``http`` writes
it as the response, ``watching`` as an ERROR event. Wording and fields follow
kube-apiserver, since clients (and people) match on them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.limits import Limit


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with one field."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


def required(field: str, detail: str = "") -> Cause:
    """A field that must be there."""
    return Cause(field, "Required value" + (f": {detail}" if detail else ""), "FieldValueRequired")


def invalid(field: str, value: object, detail: str) -> Cause:
    """A field whose value is malformed."""
    shown = f'"{value}"' if isinstance(value, str) else f"{value}"
    return Cause(field, f"Invalid value: {shown}: {detail}", "FieldValueInvalid")


def unsupported(field: str, value: object, supported: Iterable[str]) -> Cause:
    """A field whose value is none of those known."""
    known = ", ".join(f'"{name}"' for name in sorted(supported))
    return Cause(field, f'Unsupported value: "{value}": supported values: {known}', "FieldValueNotSupported")


def duplicate(field: str, value: object) -> Cause:
    """A value that must be the only one of its list."""
    return Cause(field, f'Duplicate value: "{value}"', "FieldValueDuplicate")


def forbidden_field(field: str, detail: str) -> Cause:
    """A field that may not be set, or not any more."""
    return Cause(field, f"Forbidden: {detail}", "FieldValueForbidden")


class Problem(Exception):
    """A request turned down, with the HTTP code and the body of the answer."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.retry_after_s = retry_after_s

    def status(self) -> dict[str, Any]:
        """The ``Status`` object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        details = dict(self.details)
        if self.retry_after_s is not None:
            details["retryAfterSeconds"] = self.retry_after_s
        if details:
            body["details"] = details
        return {**body, "code": self.code}


def _about(kind: Kind, name: str) -> dict[str, Any]:
    return {"name": name, "kind": kind.plural} | ({"group": kind.group} if kind.group else {})


def not_found(kind: Kind, name: str) -> Problem:
    """404: no such object."""
    return Problem(404, "NotFound", f'{kind.qualified} "{name}" not found', details=_about(kind, name))


def already_exists(kind: Kind, name: str) -> Problem:
    """409: the name is taken."""
    message = f'{kind.qualified} "{name}" already exists'
    return Problem(409, "AlreadyExists", message, details=_about(kind, name))


def conflict(kind: Kind, name: str, why: str) -> Problem:
    """409: the object is not what the request takes it for."""
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return Problem(409, "Conflict", message, details=_about(kind, name))


def forbidden(kind: Kind, name: str, why: str) -> Problem:
    """403: not allowed in this state of things."""
    message = f'{kind.qualified} "{name}" is forbidden: {why}'
    return Problem(403, "Forbidden", message, details=_about(kind, name))


def namespace_terminating(kind: Kind, name: str, namespace: str) -> Problem:
    """403: the namespace ends, and takes nothing new."""
    why = f"unable to create new content in namespace {namespace} because it is being terminated"
    problem = forbidden(kind, name, why)
    message = f"namespace {namespace} is being terminated"
    cause = {"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}
    problem.details["causes"] = [cause]
    return problem


def unprocessable(kind: Kind, name: str, causes: list[Cause]) -> Problem:
    """422: understood, and wrong."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {
        "name": name,
        "kind": kind.kind,
        "causes": [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes],
    } | ({"group": kind.group} if kind.group else {})
    return Problem(422, "Invalid", f'{kind.kind} "{name}" is invalid: {text}', details=details)


def bad_request(message: str) -> Problem:
    """400: not understood."""
    return Problem(400, "BadRequest", message)


def expired(message: str) -> Problem:
    """410: that revision is no longer remembered; list again."""
    return Problem(410, "Expired", message)


def unsupported_media_type(accepted: Iterable[str]) -> Problem:
    """415: the body is in a format that is not read here."""
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        f"{', '.join(accepted)}"
    )
    return Problem(415, "UnsupportedMediaType", message)


def no_such_path() -> Problem:
    """404: nothing is served there."""
    return Problem(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed() -> Problem:
    """405: served, though not so."""
    message = "the server does not allow this method on the requested resource"
    return Problem(405, "MethodNotAllowed", message)


def unauthorized() -> Problem:
    """401: no token, or a wrong one."""
    return Problem(401, "Unauthorized", "Unauthorized")


def limited(limit: Limit) -> Problem:
    """A real cluster does this; the embedded one says that it does not."""
    return Problem(limit.code, limit.reason, limit.words)


def too_large_revision(wanted: int, current: int) -> Problem:
    """504: a revision of the future."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return Problem(504, "Timeout", message, details={"causes": [cause]}, retry_after_s=1)


def unprocessable_options(why: str) -> Problem:
    """422: options of a list or watch that don't go together."""
    return Problem(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {why}')
