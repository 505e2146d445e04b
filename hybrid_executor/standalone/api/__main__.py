"""``python -m hybrid_executor.standalone.api --state DIR [--port N]``: serve until SIGTERM."""

import argparse
import asyncio
import logging
import os
from pathlib import Path

from hybrid_executor.standalone.api.journal import FolderInUse
from hybrid_executor.standalone.api.server import Server


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="hybrid_executor.standalone.api", description=__doc__)
    parser.add_argument(
        "--state", required=True, type=Path, help="folder for objects, keys and the kubeconfig"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port; by default that of the last start, or a free one"
    )
    asked = parser.parse_args()
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(Server(asked.state, asked.port).run_until_signalled())
    except (FolderInUse, OSError) as unusable:
        parser.exit(1, f"The embedded Kubernetes API can't start: {unusable}\n")


if __name__ == "__main__":
    main()
