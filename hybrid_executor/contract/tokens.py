"""Airflow's tokens for workloads, with a life of their own. The executor signs with it."""

from typing import Any

from airflow.api_fastapi.auth.tokens import JWTGenerator

from hybrid_executor.contract.edition import TOKEN_SCOPES


class WorkloadTokens(JWTGenerator):
    """Signs workload tokens with a life of their own, with the key and claims of another generator.

    Airflow gives them ``[scheduler] task_queued_timeout``, so a task that waits
    longer than that for a worker or a node could never start. For task
    instances the scope admits ``/run`` alone, which swaps the token for a
    short-lived one, so a long life widens nothing else.
    """

    def __init__(self, generator: JWTGenerator, workload_life_s: float) -> None:
        # Airflow's class reads its key from files when constructed: this one only delegates.
        self._generator = generator
        self._workload_life_s = workload_life_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def generate(
        self,
        extras: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        valid_for: float | None = None,
    ) -> str:
        """Sign; a workload's token lives ``workload_life_s`` seconds."""
        if (extras or {}).get("scope") in TOKEN_SCOPES:
            valid_for = self._workload_life_s
        return self._generator.generate(extras=extras, headers=headers, valid_for=valid_for)
