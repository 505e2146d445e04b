"""What people see of a task in Flower and in workers' events, the same for messages and for pods.

Pure. A workload's own arguments are its JSON with its token, so none of them
is ever shown: what stands in their place says which task instance it is, in a
form that Flower's search finds (``kwargs:dag=etl kwargs:try=2``). ``publish``
calls it for messages, ``podevents`` for pods.
"""

from typing import Protocol

from hybrid_executor.model.attempt import TaskAddress, WorkloadKind

#: As long as Celery's own ``argsrepr`` and ``kwargsrepr`` may get.
REPR_MAX = 1024


class Shown(Protocol):
    """An attempt, or a submission's record."""

    @property
    def kind(self) -> WorkloadKind: ...
    @property
    def workload_id(self) -> str: ...
    @property
    def address(self) -> TaskAddress | None: ...


def shadow(of: Shown) -> str:
    """What it is called: ``dag.task``."""
    if of.address is None:
        return str(of.kind)
    return f"{of.address.dag_id}.{of.address.task_id}"


def argsrepr(of: Shown) -> str:
    """Shown as its arguments: (dag, run, task, map index, try)."""
    if (address := of.address) is None:
        return repr((of.workload_id,))[:REPR_MAX]
    shown = (address.dag_id, address.run_id, address.task_id, address.map_index, address.try_number)
    return repr(shown)[:REPR_MAX]


def kwargsrepr(of: Shown, **more: str) -> str:
    """The same by names, with ``more``, for a search by ``kwargs:NAME=VALUE``."""
    if (address := of.address) is None:
        return repr({"workload": of.workload_id, **more})[:REPR_MAX]
    shown = {
        "dag": address.dag_id,
        "run": address.run_id,
        "task": address.task_id,
        "map_index": address.map_index,
        "try": address.try_number,
        **more,
    }
    return repr(shown)[:REPR_MAX]
