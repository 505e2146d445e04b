"""The exception tree.

    HybridExecutorError
    ├── ConfigError            a user's setting or file is wrong: every problem in one message
    ├── Unavailable            something outside is away or overloaded: wait and try again
    │   ├── BrokerUnavailable
    │   ├── ApiUnavailable
    │   ├── LedgerUnavailable
    │   └── LiveUnavailable    the ledger's live half, a copy: no attempt ever waits for it
    └── Refused                this one submission can never be made: fail it, with the reason
        └── InvalidPod         its pod template, override, executor_config or mutation hook

Adapters translate at their border and chain the cause. The loop knows two
kinds: unavailable (the attempt waits) and refused (the attempt fails with its
reason). Nothing else may leave an adapter.
"""

from collections.abc import Sequence

from hybrid_executor.model.reason import Reason


class HybridExecutorError(Exception):
    """Everything that this package raises on purpose."""


class ConfigError(HybridExecutorError):
    """One or more settings are wrong. ``problems`` holds one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Unavailable(HybridExecutorError):
    """Something outside is away; the attempt waits for ``reason``."""

    reason: Reason

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        #: What the other side asked for (Retry-After), in seconds.
        self.retry_after_s = retry_after_s


class BrokerUnavailable(Unavailable):
    reason = Reason.BROKER_UNAVAILABLE


class ApiUnavailable(Unavailable):
    """The API server did not take the request; ``reason`` says which kind of no it was."""

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.API_UNAVAILABLE,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


class LedgerUnavailable(Unavailable):
    reason = Reason.LEDGER_UNAVAILABLE


class LiveUnavailable(Unavailable):
    reason = Reason.LEDGER_UNAVAILABLE


class Refused(HybridExecutorError):
    """One submission can never be made."""

    reason: Reason = Reason.REFUSED


class InvalidPod(Refused):
    """The pod of one attempt can't be built; the message names the layer and the field."""

    reason = Reason.INVALID_POD
