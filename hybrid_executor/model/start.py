"""A start that Airflow never answered: what the process that asked for it says at its end.

A supervisor forks the task's process and then asks Airflow's Execution API for
leave to run it; until the answer is there, that process does nothing. Where no
answer comes, no code of a user has run. But the question may have arrived, so
the task instance may be RUNNING, under the host name that stood in it: with it
the executor can tell that start from one of another process.

One exit code and one line of text, no more. Our entry points write them
(``worker.task``), the readers of pods and of Celery's results take them.
"""

import json

#: EX_TEMPFAIL of sysexits.h. Neither Airflow nor Python ends a supervisor with it.
EXIT_CODE = 75
#: How the line begins.
MARK = "hybrid-executor never started as "


def to_line(host: str) -> str:
    """The line, for the host name as it stood in the request."""
    return MARK + json.dumps(host)


def from_line(line: str) -> str | None:
    """The host name of such a line; None for any other text, a line that was cut among it."""
    try:
        found = json.loads(line.removeprefix(MARK)) if line.startswith(MARK) else None
    except ValueError:
        return None
    return found if isinstance(found, str) and found else None
