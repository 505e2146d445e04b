"""What statements written as text must know of the installed Airflow's tables. Imports nothing of Airflow.

For the few statements that no model of Airflow's can write: those of programs
that run beside Airflow, and of the tests. ``contract`` has all others.
"""

from importlib.metadata import version

AIRFLOW_VERSION = version("apache-airflow-core")

#: From 3.4 on each try of a task instance is a row of its own; before, past ones are in a table of theirs.
A_ROW_PER_TRY = tuple(int(part) for part in AIRFLOW_VERSION.split(".")[:2]) >= (3, 4)

#: The column of ``task_instance`` that has the map index.
MAP_INDEX = "region_index" if A_ROW_PER_TRY else "map_index"

#: What is true of the rows of ``task_instance ti`` that are present tries.
IS_PRESENT = "ti.working_set" if A_ROW_PER_TRY else "TRUE"

#: The past tries, as something to select from.
PAST_TRIES = (
    "(SELECT * FROM task_instance WHERE working_set IS NULL) AS past"
    if A_ROW_PER_TRY
    else "task_instance_history"
)
