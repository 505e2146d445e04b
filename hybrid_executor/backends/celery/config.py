"""The Celery backend's own numbers; broker, queues and result store come from Celery's app."""

from dataclasses import dataclass, fields

from hybrid_executor.model.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryConfig:
    """Plain values, made by ``settings``. Every number must be positive."""

    #: How often results of what is in flight are read, where they are not pushed.
    poll_interval_s: float = 1.0
    #: How often where they are. A push is lost with its connection, which is noticed at once, unless a
    #: network drops it in silence. So this is only how late a slot may be freed after that.
    repair_interval_s: float = 10.0
    #: ``[celery] operation_timeout``: longest wait for the broker's answer to one publish.
    operation_timeout_s: float = 1.0
    #: Longest wait for the answer to one read of results or of a queue.
    read_timeout_s: float = 10.0
    #: After how long an attempt that could not be published is to be handed over again.
    publish_retry_s: float = 1.0
    #: What is taken of pushes before anything else gets its turn.
    push_chunk: int = 1000
    #: Messages in one pipeline. What is in doubt after a broken connection is at most this many.
    publish_chunk: int = 500
    #: Ids in one read of results.
    results_chunk: int = 1000
    #: Messages in one read of a queue (some 3 KB each).
    queue_chunk: int = 500
    #: How many messages of a queue a look-up reads; what lies behind them is taken to be there.
    queue_limit: int = 20_000
    #: Time between two looks for something that was not found.
    look_again_s: float = 1.0
    #: So often, and over at least so long, must something be missing before it is called absent.
    absent_looks: int = 3
    absent_after_s: float = 2.0
    #: How often it is looked whether workers take what waits for them.
    workers_interval_s: float = 10.0
    #: Longest pause between two tries to reach a broker or result store that is away.
    outage_pause_max_s: float = 5.0

    def __post_init__(self) -> None:
        problems = [
            f"Celery backend: {field.name} must be positive, not {value!r}"
            for field in fields(self)
            if not (value := getattr(self, field.name)) > 0
        ]
        if problems:
            raise ConfigError(problems)
