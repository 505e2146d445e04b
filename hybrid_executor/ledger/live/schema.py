"""Every key of the live half: its name, what it holds, and when it goes.

Pure; ``store`` and ``reader`` take all names from here, and hand them to the
scripts. With ``P`` for the prefix, whose braces keep all keys of one Airflow in
one slot of a Cluster:

    {P}:attempt:ID              hash: the ledger's row of the attempt's newest submission, by columns
    {P}:inflight:BACKEND:QUEUE  sorted set: attempts in flight; the score is the time, in seconds, until
                                which their scheduler vouches for them
    {P}:queues                  sorted set: each BACKEND:QUEUE that has such a set, scored likewise
    {P}:index:JOB               hash: what the scheduler answers for: attempt -> "SUBMISSION STATE"
    {P}:scheduler:JOB           hash: number of the last batch (``written``), times in seconds of the last
                                comparison (``checked_at``) and of the last rebuild (``rebuilt_at``)
    {P}:transitions             stream: attempt, submission, state, and the task's key
    {P}:start:NAME              "1": a worker has started the Celery message of that id (``worker.claim``)

All expire ``LEASE_S`` after the last word of a living scheduler, but for a hash
whose attempt has ended (``ENDED_S``), the stream (``STREAM_S``, and about
``STREAM_ENTRIES`` entries), and the start of a message, which is known as long as
its task runs and ``CLAIM_OVER_S`` after. A set lives as long as anybody vouches for one of
its members, and is rid of the others at each comparison.
"""

import re
from dataclasses import dataclass

from hybrid_executor.model.attempt import BackendName

#: Longer than it takes to notice that a scheduler is dead and to adopt what it left.
LEASE_S = 600
#: For who looks at an attempt just after its end.
ENDED_S = 300
STREAM_S = 86_400
#: For a broker that delivers a message again just when its task has ended.
CLAIM_OVER_S = 3_600
STREAM_ENTRIES = 10_000
#: Submissions in one run of a script: a server does nothing else meanwhile.
BATCH_ITEMS = 1_000

_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def is_prefix(text: str) -> bool:
    """Whether keys may begin so: no braces, no wildcards, no spaces."""
    return _PREFIX.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one Airflow's keys. ``part`` sets the keys of a trial apart."""

    prefix: str
    part: str = ""

    @property
    def base(self) -> str:
        """What all names begin with."""
        return f"{{{self.prefix}}}:{self.part}"

    @property
    def attempts(self) -> str:
        """Followed by an attempt's id."""
        return f"{self.base}attempt:"

    @property
    def inflight(self) -> str:
        """Followed by ``queue_name``."""
        return f"{self.base}inflight:"

    @property
    def indexes(self) -> str:
        """Followed by a scheduler's job id."""
        return f"{self.base}index:"

    @property
    def queues(self) -> str:
        return f"{self.base}queues"

    @property
    def transitions(self) -> str:
        return f"{self.base}transitions"

    def start(self, name: str) -> str:
        """Of one Celery message."""
        return f"{self.base}start:{name}"

    def scheduler(self, job: str) -> str:
        """A scheduler's own hash."""
        return f"{self.base}scheduler:{job}"

    def of_script(self, job: str) -> list[str]:
        """What every script gets as KEYS, in this order."""
        return [
            self.scheduler(job),
            self.indexes + job,
            self.transitions,
            self.queues,
            self.attempts,
            self.inflight,
            self.indexes,
        ]


def queue_name(backend: BackendName, queue: str) -> str:
    """A queue of a backend, as a member of ``queues``."""
    return f"{backend}:{queue}"


def queue_of(name: str) -> tuple[BackendName, str]:
    """The reverse of ``queue_name``; ValueError for a backend of a later release."""
    backend, _, queue = name.partition(":")
    return BackendName(backend), queue
