"""Makes the Secret of an installation, once: one that exists is left as it is.

A changed JWT key would refuse the heartbeat of every running task, and a changed Fernet key makes connections
unreadable. May do nothing but create Secrets. Run by a Job of the chart, with the standard library alone.
"""

import base64
import json
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

namespace, name, database, broker, users = sys.argv[1:]
account = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def made() -> dict[str, str]:
    """All keys that any part of the chart may ask for, so that none is missing when one is switched on."""
    password, queue_password, admin = (secrets.token_urlsafe(24) for _ in range(3))
    names = [user.partition(":")[0] for user in users.split(",") if user]
    place = f"airflow:{password}@{database}:5432/airflow"
    server = f"redis://:{queue_password}@{broker}:6379"
    return {
        "fernet-key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "jwt-secret": secrets.token_urlsafe(48),
        "session-key": secrets.token_urlsafe(48),
        "admin-password": admin,
        "passwords.json": json.dumps(dict.fromkeys(names, admin)),
        "flower-auth": f"admin:{admin}",
        "postgres-password": password,
        # SQLAlchemy wants the driver's name, and KEDA's client none.
        "connection": f"postgresql+psycopg2://{place}",
        "keda-connection": f"postgresql://{place}",
        "valkey-password": queue_password,
        "broker-url": f"{server}/0",
        "result-backend": f"{server}/1",
    }


body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": made()}
request = urllib.request.Request(
    f"https://kubernetes.default.svc/api/v1/namespaces/{namespace}/secrets",
    data=json.dumps(body).encode(),
    headers={
        "Authorization": "Bearer " + (account / "token").read_text(),
        "Content-Type": "application/json",
    },
)
trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
try:
    urllib.request.urlopen(request, context=trust, timeout=30).close()
    print(f"made Secret {name}")
except urllib.error.HTTPError as error:
    if error.code != 409:
        sys.exit(f"{error}: {error.read().decode(errors='replace')}")
    print(f"Secret {name} exists and stays as it is")
