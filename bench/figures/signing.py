"""The processor time of signing a workload's token, which the scheduler does for both executors alike."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.figure import Case, Figure, Reading, Size, Turn
from bench.meter import Watch

COUNT = 200

FIGURE = Figure(
    name="signing",
    title="sign a workload's token",
    stocks={"stock": "CeleryExecutor"},
    cases=(Case("shared secret (HS512)", {}, frozenset(Size)), Case("RSA key", {"rsa": True})),
    readings=(Reading(name="cpu", unit="ms of processor each"),),
    stock_does="gives it the life of `[scheduler] task_queued_timeout`",
    ours_does="gives it a life of its own, and signs again where a wait has used some of it",
)


def _turns(make: Callable[[], Any], rsa: bool) -> Turn:
    if rsa:
        _use_a_key()
    from airflow.executors.workloads import ExecuteTask

    tokens, subject = make().jwt_generator, str(uuid4())

    def turn() -> dict[str, float]:
        watch = Watch()
        for _ in range(COUNT):
            ExecuteTask.generate_token(subject, tokens)
        return {"cpu": watch.cpu_ms() / COUNT}

    turn()
    return turn


def _use_a_key() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = Path(os.environ["AIRFLOW_HOME"], "key.pem")
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    del os.environ["AIRFLOW__API_AUTH__JWT_SECRET"]
    os.environ["AIRFLOW__API_AUTH__JWT_PRIVATE_KEY_PATH"] = str(file)


def stock(rsa: bool = False) -> Turn:
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor

    return _turns(CeleryExecutor, rsa)


def ours(rsa: bool = False) -> Turn:
    from hybrid_executor.executor import HybridExecutor

    return _turns(HybridExecutor, rsa)
