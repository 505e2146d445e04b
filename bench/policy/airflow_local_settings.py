"""What makes the stock pair of executors honour a queue: on the path of its components alone."""


def task_policy(task):
    """Send the queue's tasks to pods, as a task policy may."""
    if task.queue == "kubernetes":
        task.executor = "KubernetesExecutor"
