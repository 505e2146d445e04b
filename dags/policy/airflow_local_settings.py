"""The site's cluster policy in the demo. Put this folder on PYTHONPATH of all Airflow components.

It sends the second and later tries of the tasks that are named here to a pod.
"""

OUTGROWING = {("retry_crosses_backends", "outgrows_its_worker")}


def task_instance_mutation_hook(task_instance, dag_run=None):  # noqa: ARG001
    """Choose the queue by the try: what failed on a worker is tried again in a pod."""
    if (task_instance.dag_id, task_instance.task_id) in OUTGROWING and (task_instance.try_number or 0) >= 2:
        task_instance.queue = "kubernetes"
