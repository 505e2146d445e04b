"""Containers on every rung of the isolation ladder that this machine allows."""

import asyncio
import os
from pathlib import Path

import pytest

from hybrid_executor.standalone.runner.container import ContainerSpec, Mount, ProcessRuntime, StartFailed
from hybrid_executor.standalone.runner.isolation import LADDER, Isolation, allowed
from hybrid_executor.standalone.runner.loglines import LogQuery
from hybrid_executor.standalone.runner.logstore import LogFile, LogStore, stored


def runnable() -> list[Isolation]:
    """The rungs that work here; the last, without namespaces, always does."""
    return [rung for rung in LADDER if allowed((rung, LADDER[-1])) == rung]


RUNGS = pytest.mark.parametrize("rung", runnable(), ids=str)


def spec(folder: Path, *argv: str, mounts: tuple[Mount, ...] = (), limit: int | None = None) -> ContainerSpec:
    (folder / "scratch").mkdir(exist_ok=True)
    return ContainerSpec(
        pod_uid="uid",
        name="base",
        restart=0,
        argv=argv,
        env={"PATH": os.environ["PATH"]},
        cwd=str(folder),
        hostname="pod-name",
        scratch=folder / "scratch",
        mounts=mounts,
        memory_limit=limit,
    )


@RUNGS
async def test_an_orphan_that_left_its_session_ends_with_its_container(
    rung: Isolation, tmp_path: Path
) -> None:
    logs = LogStore(tmp_path)
    word = f"4246.{os.getpid()}{LADDER.index(rung)}"
    started = await ProcessRuntime(rung, logs).start(
        spec(tmp_path, "sh", "-c", f"setsid setsid sleep {word} & echo out; echo err >&2; exit 9")
    )
    end = await asyncio.wait_for(started.wait(), 10)
    assert end.code == 9
    assert sorted(raw.split(b" ", 3)[1:] for raw in stored(logs.path("uid", "base", 0))) == [
        [b"stderr", b"F", b"err\n"],
        [b"stdout", b"F", b"out\n"],
    ]
    shown = await _output("ps", "-eo", "args")
    assert f"sleep {word}" not in shown


async def _output(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0].decode()


@RUNGS
async def test_sigterm_reaches_the_command_and_sigkill_the_whole_tree(
    rung: Isolation, tmp_path: Path
) -> None:
    logs = LogStore(tmp_path)
    runtime = ProcessRuntime(rung, logs)
    first = await runtime.start(spec(tmp_path, "sleep", "60"))
    first.terminate()
    assert (await asyncio.wait_for(first.wait(), 10)).code == 143
    second = await runtime.start(spec(tmp_path, "sh", "-c", "trap '' TERM; echo up; sleep 60; sleep 60"))
    async with asyncio.timeout(10):
        # Before its trap is set, SIGTERM would end it.
        while not any(stored(logs.path("uid", "base", 0))):
            await asyncio.sleep(0.01)
    second.terminate()
    second.kill()
    assert (await asyncio.wait_for(second.wait(), 10)).code == 137


@RUNGS
async def test_a_command_that_does_not_exist_is_refused_in_words(rung: Isolation, tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="executable file not found in"):
        await ProcessRuntime(rung, LogStore(tmp_path)).start(spec(tmp_path, "no-such-program"))


@pytest.mark.parametrize("rung", [rung for rung in runnable() if rung.mount], ids=str)
async def test_mount_points_that_the_host_lacks_are_made_for_the_container_alone(
    rung: Isolation, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("content")
    mounts = (
        Mount(str(volume), "/hybrid-top/deep/er", read_only=False),
        Mount(str(volume), "/usr/hybrid-usr", read_only=True),
        Mount(str(volume / "file"), "/usr/hybrid-usr-file", read_only=False),
        Mount(str(volume), "/tmp", read_only=False),  # noqa: S108 - hides where the sources lie
    )
    logs = LogStore(tmp_path)
    script = (
        "cat /hybrid-top/deep/er/file /usr/hybrid-usr/file /usr/hybrid-usr-file /tmp/file; "
        "touch /usr/hybrid-usr/new 2>/dev/null || echo kept; test -e /usr/bin/env && hostname"
    )
    started = await ProcessRuntime(rung, logs).start(spec(tmp_path, "sh", "-c", script, mounts=mounts))
    assert (await asyncio.wait_for(started.wait(), 10)).code == 0
    text = b"".join([chunk async for chunk in logs.read(logs.path("uid", "base", 0), LogQuery())])
    assert text == b"content" * 4 + b"kept\npod-name\n"
    assert [p for p in ("/hybrid-top", "/usr/hybrid-usr", "/usr/hybrid-usr-file") if Path(p).exists()] == []


def test_a_log_that_grows_for_ever_keeps_its_newest_half(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "0.log", half_max=1000)
    for number in range(200):
        log.append("stdout", str(number).encode(), complete=True)
    log.close()
    kept = list(stored(tmp_path / "0.log"))
    assert kept[-1].endswith(b" 199\n")
    assert sum(map(len, kept)) <= 2000
    numbers = [int(raw.split()[-1]) for raw in kept]
    assert numbers == list(range(numbers[0], 200))
