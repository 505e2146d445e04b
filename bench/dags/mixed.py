"""Many tasks that do nothing, a quarter of them in pods: of 20, and of 200."""

from airflow.sdk import DAG, task

for count in (20, 200):
    with DAG(f"mixed_{count}", max_active_runs=1, max_active_tasks=count) as dag:

        @task
        def nothing() -> None:
            """What is around it counts."""

        for number in range(count):
            queue = "kubernetes" if number % 4 == 0 else "default"
            nothing.override(task_id=f"nothing_{number}", queue=queue)()
    globals()[dag.dag_id] = dag
