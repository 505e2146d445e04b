"""What the entry point reads of its control group, and what it leaves for the kubelet."""

import threading
from pathlib import Path

import pytest

from hybrid_executor.model.resources import Resources, from_line, to_line
from hybrid_executor.worker import gauge

MIB = 1 << 20
USED = Resources(cpu_peak_m=120, cpu_used_s=7.25, memory_peak_bytes=200 * MIB)


def write(root: Path, *, held: int, idle: int, most: int | None, cpu_s: float, version: int = 2) -> None:
    """A group's files as the kernel shows them in a container."""
    if version == 1:
        (root / "memory").mkdir(exist_ok=True)
        (root / "cpuacct").mkdir(exist_ok=True)
        (root / "memory/memory.usage_in_bytes").write_text(f"{held}\n")
        (root / "memory/memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {idle}\n")
        (root / "memory/memory.max_usage_in_bytes").write_text(f"{most}\n")
        (root / "cpuacct/cpuacct.usage").write_text(f"{round(cpu_s * 1e9)}\n")
        return
    (root / "memory.current").write_text(f"{held}\n")
    (root / "memory.stat").write_text(f"anon 5\ninactive_file {idle}\nactive_file 7\n")
    (root / "cpu.stat").write_text(f"usage_usec {round(cpu_s * 1e6)}\nuser_usec 1\n")
    if most is not None:
        (root / "memory.peak").write_text(f"{most}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_idle_file_cache_is_not_what_a_task_takes(tmp_path: Path, version: int) -> None:
    write(tmp_path, version=version, held=900 * MIB, idle=600 * MIB, most=950 * MIB, cpu_s=2.5)
    group = gauge.own_group(tmp_path)
    assert group is not None
    assert (group.working_set_bytes(), group.most_held_bytes()) == (300 * MIB, 950 * MIB)
    assert group.cpu_s() == pytest.approx(2.5)


def test_without_control_groups_or_without_a_kubelet_nothing_is_measured(tmp_path: Path) -> None:
    assert gauge.own_group(tmp_path) is None
    write(tmp_path, held=1, idle=0, most=None, cpu_s=0)
    assert gauge.own_gauge(tmp_path / "no-kubelet", tmp_path) is None
    message = tmp_path / "message"
    message.touch()
    assert gauge.own_gauge(message, tmp_path) is not None


@pytest.mark.parametrize(
    ("mark", "most", "peak"), [(10, 900, 300), (400, 900, 400), (950, 900, 900), (400, None, 400)]
)
def test_a_spike_between_two_looks_is_known_by_the_mark_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: int, most: int | None, peak: int
) -> None:
    """And no sum is higher than what the kernel held at most."""
    write(tmp_path, held=300 * MIB, idle=0, most=most and most * MIB, cpu_s=6.0)
    monkeypatch.setattr(gauge, "highest_mark_bytes", lambda: mark * MIB)
    group = gauge.own_group(tmp_path)
    assert group is not None
    used = gauge.Gauge(group, lambda: 12.0).used()
    assert used == Resources(cpu_peak_m=500, cpu_used_s=6.0, memory_peak_bytes=peak * MIB)


def test_the_highest_of_many_looks_counts_and_the_looking_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge, "SAMPLE_S", 0.01)
    monkeypatch.setattr(gauge, "highest_mark_bytes", lambda: 0)
    write(tmp_path, held=700 * MIB, idle=0, most=None, cpu_s=1.0)
    group = gauge.own_group(tmp_path)
    assert group is not None
    seen = threading.Event()
    read = group.working_set_bytes
    monkeypatch.setattr(group, "working_set_bytes", lambda: (read(), seen.set())[0])
    measured = gauge.Gauge(group, lambda: 12.0)
    with measured.watching():
        assert seen.wait(10)
    write(tmp_path, held=100 * MIB, idle=0, most=None, cpu_s=1.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "resource-gauge"]
    assert measured.used().memory_peak_bytes == 700 * MIB


@pytest.mark.parametrize("there", ["", "loaded 7 tables\n", "no newline"])
def test_the_line_goes_behind_what_the_task_wrote(tmp_path: Path, there: str) -> None:
    message = tmp_path / "message"
    message.write_text(there)
    gauge.leave(USED, message)
    *own, line = message.read_text().splitlines()
    assert own == there.splitlines()
    assert from_line(line) == USED


def test_a_message_that_the_line_would_push_out_stays_alone(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_text("x" * (gauge.MESSAGE_MAX - len(to_line(USED))))
    gauge.leave(USED, message)
    assert set(message.read_text()) == {"x"}
