"""Which Airflow this is. Chooses between the editions, and knows nothing but the version.

An edition is a module with all that differs between versions: how an executor
is declared and its tasks are keyed (``AirflowExecutor``, ``key_of``), what a
new try does to the rows (``run_again``), the scopes of tokens. All offer the
same names, and mypy reads them by the oldest. Outside this package only
``airflowtables``, for text, and ``worker.task``, for its SDK, ask for a version.
"""

from typing import TYPE_CHECKING

from hybrid_executor.airflowtables import A_ROW_PER_TRY, AIRFLOW_VERSION

if TYPE_CHECKING or not A_ROW_PER_TRY:
    from hybrid_executor.contract.airflow_3_3 import TOKEN_SCOPES, AirflowExecutor, key_of, run_again
else:
    from hybrid_executor.contract.airflow_3_4 import TOKEN_SCOPES, AirflowExecutor, key_of, run_again

__all__ = [
    "AIRFLOW_VERSION",
    "TOKEN_SCOPES",
    "AirflowExecutor",
    "key_of",
    "run_again",
]
