"""``python -m hybrid_executor.standalone.runner``: puts the node together, runs it, ends it on SIGTERM."""

import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.standalone.runner import kubeconfig, node, options
from hybrid_executor.standalone.runner.agent import Agent, AgentSettings
from hybrid_executor.standalone.runner.certificate import self_signed
from hybrid_executor.standalone.runner.client import Client
from hybrid_executor.standalone.runner.container import (
    PretendRuntime,
    ProcessRuntime,
    Runtime,
    base_environment,
)
from hybrid_executor.standalone.runner.environment import NodeFacts
from hybrid_executor.standalone.runner.events import EventWriter
from hybrid_executor.standalone.runner.isolation import LADDER, Isolation, allowed
from hybrid_executor.standalone.runner.logaccess import LogAccess
from hybrid_executor.standalone.runner.logserver import LogServer, LogServerFiles
from hybrid_executor.standalone.runner.logstore import LogStore
from hybrid_executor.standalone.runner.plan import NodeSettings

log = logging.getLogger("hybrid_executor.standalone.runner")

#: The only address that anything here binds or announces.
ADDRESS = "127.0.0.1"
NOT_DONE = (
    "pods run as local processes of this user on this machine's own file system: no images, no network of "
    "their own, no cgroups (memory limits are sampled, CPU limits ignored), no users or capabilities of a "
    "securityContext, no probes, no lifecycle hooks, no termination messages, no volumes but emptyDir, "
    "hostPath, secret, configMap, downwardAPI and projected, no Services, no exec, attach or port-forward"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the node; the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asked = options.read(sys.argv[1:] if arguments is None else arguments)
        cluster = kubeconfig.load(asked.kubeconfig)
        lock = own_state(asked.state)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    log.info("%s", NOT_DONE)
    os.umask(0o022)
    with lock:
        asyncio.run(serve(asked, cluster))
    return 0


def own_state(state: Path) -> IO[str]:
    """Make the state folder, private, and hold it against a second runner."""
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o700)
    lock = (state / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ConfigError([f"{state}: another runner uses this state folder"]) from error
    return lock


async def serve(asked: options.Options, cluster: kubeconfig.Cluster) -> None:
    """The node, from its first word to its last."""
    isolation = allowed() if asked.processes and asked.namespaces else LADDER[-1]
    if asked.processes:
        log.info("namespaces that this machine allows for containers: %s", isolation)
    logs = LogStore(asked.state)
    runtime: Runtime = ProcessRuntime(isolation, logs) if asked.processes else PretendRuntime()
    async with Client(cluster) as client:
        events = EventWriter(client, "hybrid-executor-runner", asked.name, silent=not asked.processes)
        description = describe(asked)
        found: list[Agent] = []
        server = LogServer(
            log_files(asked),
            logs,
            lambda space, name: found[0].find_pod(space, name) if found else None,
            LogAccess(client, asked.name),
        )
        description = replace(description, log_port=await server.start(ADDRESS))
        settings = AgentSettings(asked.state, description, bind=asked.bind)
        environment = node.service_environment(cluster.server)
        facts = node_settings(asked, description, isolation, environment)
        agent = Agent(settings, client, runtime, events, facts)
        found.append(agent)
        try:
            await until_signalled(agent)
        finally:
            await server.stop()


def describe(asked: options.Options) -> node.NodeDescription:
    return node.NodeDescription(
        name=asked.name,
        address=ADDRESS,
        allocatable=node.machine(asked.max_pods, asked.state) | dict(asked.allocatable),
        labels=node.labels(asked.name, asked.labels),
        lease_s=asked.lease_s,
    )


def node_settings(
    asked: options.Options,
    description: node.NodeDescription,
    isolation: Isolation,
    environment: Mapping[str, str],
) -> NodeSettings:
    return NodeSettings(
        facts=NodeFacts(asked.name, ADDRESS, description.allocatable),
        base_env=base_environment(asked.prefixes, {**environment, **asked.env}),
        can_mount=isolation.mount,
        restart_backoff_s=asked.restart_backoff_s,
        pretend=not asked.processes,
    )


def log_files(asked: options.Options) -> LogServerFiles:
    if asked.tls_cert and asked.tls_key:
        certificate, key = asked.tls_cert, asked.tls_key
    else:
        certificate, key = self_signed(asked.state, asked.name, ADDRESS)
    return LogServerFiles(certificate, key, asked.node_token, asked.client_ca)


async def until_signalled(agent: Agent) -> None:
    """Run the agent until SIGTERM or SIGINT, then end what it runs."""
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(agent.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        log.info("ending")
    finally:
        await agent.shut_down()


if __name__ == "__main__":
    sys.exit(main())
