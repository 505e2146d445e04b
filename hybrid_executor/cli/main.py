"""The console script ``hybrid-executor``: what does not need a configured Airflow.

``hybrid-executor standalone`` runs the whole product on this machine. Commands
that read Airflow's settings are in Airflow's own command line (``airflow hybrid``).
"""

import sys
from collections.abc import Sequence

USAGE = """\
usage: hybrid-executor standalone [--state DIR] [--dags DIR] [--once] [--queues NAMES] [--slots N]
                                  [--kubeconfig FILE [--namespace NAME]]

  standalone   run Airflow, a worker, an embedded Kubernetes (or the given one) and Flower on this machine"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["standalone"]:
        return standalone(given[1:])
    if given in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if given:
        print(f"hybrid-executor: no command {given[0]!r}", file=sys.stderr)
    print(USAGE, file=sys.stderr)
    return 2


def standalone(arguments: Sequence[str]) -> int:
    """Run the stack until Ctrl-C, or once."""
    try:
        from hybrid_executor.standalone.stack import demo, guard, state  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as missing:
        print(f"{missing}: install airflow-hybrid-executor[standalone]", file=sys.stderr)
        return 2
    asked = demo.parser().parse_args(arguments)
    try:
        return guard.run(asked.state, arguments)
    except state.StateInUse as busy:
        print(busy, file=sys.stderr)
        return 3
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        print(f"{error.filename}: {error.strerror}; choose another --state folder", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
