"""What a pod's containers are given: variables and volumes, from the objects that the pod refers to.

One per pod. Called by ``podworker`` before the first container, by
``containerlife`` before each start, so that a restarted container sees new
values, and while they run: a volume is written again when a token in it grows
old, and every minute, as a kubelet does.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner import plan
from hybrid_executor.standalone.runner.client import Client
from hybrid_executor.standalone.runner.container import ContainerSpec
from hybrid_executor.standalone.runner.environment import ConfigMissing, Surroundings
from hybrid_executor.standalone.runner.objects import TokenBook, resolve
from hybrid_executor.standalone.runner.volumeplan import (
    VolumeUnavailable,
    changes_while_it_runs,
    volume_plans,
)
from hybrid_executor.standalone.runner.volumes import PodFolder

log = logging.getLogger(__name__)

Manifest = Mapping[str, Any]

#: How often the volumes of a running pod are compared with the API.
SYNC_S = 60.0
RETRY_S = 10.0


class Provisions:
    """Fetches, writes, and says what to start."""

    def __init__(
        self, client: Client, pod: Callable[[], Manifest], folder: PodFolder, settings: plan.NodeSettings
    ) -> None:
        self._client, self._pod, self._folder, self.settings = client, pod, folder, settings
        self._tokens = TokenBook(client)

    async def prepare(self) -> None:
        """Volumes on disk; raises what keeps a container from having them."""
        self._folder.prepare(plan.hostname(self._pod()))
        plan.check(await self._surroundings(), self._folder, self.settings)

    async def spec(self, manifest: Manifest, restarts: int) -> ContainerSpec:
        """What to start; from now on the pod counts as started."""
        if self.settings.pretend:
            return plan.pretend_spec(manifest, self._pod(), self._folder, restarts)
        around = await self._surroundings()
        spec = plan.container_spec(manifest, around, self._folder, self.settings, restarts)
        self._folder.mark_started()
        return spec

    async def keep_fresh(self) -> None:
        """Write changed volumes anew, for as long as the pod runs; to be cancelled."""
        wait_s = self._next_s()
        while changes_while_it_runs(self._pod()):
            await asyncio.sleep(wait_s)
            try:
                plans = volume_plans(await self._surroundings())
                self._folder.fill(volume for volume in plans if volume.read_only)
                wait_s = self._next_s()
            except (ApiUnavailable, ConfigMissing, VolumeUnavailable) as error:
                log.warning("volumes of %s stay as they are: %s", self._pod()["metadata"]["name"], error)
                wait_s = RETRY_S

    def _next_s(self) -> float:
        due = self._tokens.next_due()
        return SYNC_S if due is None else min(SYNC_S, max(0.0, due - time.monotonic()))

    async def _surroundings(self) -> Surroundings:
        return await resolve(self._client, self._pod(), self.settings.facts, self._tokens)
