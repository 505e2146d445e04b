"""Tasks that do nothing, one alone and sixteen together, for workers and for pods."""

from airflow.sdk import DAG, task

for queue in ("default", "kubernetes"):
    for count in (1, 16):
        with DAG(f"starting_{queue}_{count}", max_active_runs=1) as dag:

            @task(queue=queue)
            def nothing() -> None:
                """Its process is what counts."""

            for number in range(count):
                nothing.override(task_id=f"nothing_{number}")()
        globals()[dag.dag_id] = dag
