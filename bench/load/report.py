"""From what a run has noted to what it says: costs of a phase, lags, series by the second, a table. Pure.

``found`` is what ``run.run`` returns. Costs are differences between a phase's
edges; what a scheduler costs that has nothing to do is taken off, as the idle
phase has it. A task's own worker, its node and the loops that offer are not in
what the executor costs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.load.apicalls import of_executors
from bench.load.plan import CELERY_ALONE, IDLE, LOAD, PODS_ALONE, Plan, phase_of

Found = Mapping[str, Any]
#: Of the lags that are said.
SHARES = (0.5, 0.95, 1.0)


def summary(plan: Plan, found: Found) -> dict[str, Any]:
    """What a run says in the end; ``model`` takes its constants from it."""
    phases = {phase["name"]: phase for phase in found["phases"]}
    idle = costs(plan, found, phases[IDLE])
    told = {name: costs(plan, found, phases[name], idle=idle) for name in (CELERY_ALONE, PODS_ALONE, LOAD)}
    return {
        "checks": found["checks"],
        "fixed": idle,
        "each": told,
        "memory_mib": memory(found, phases[LOAD]),
        "bytes": sizes(found),
        "lags": lags(plan, found),
        "cores": cores(found, phases[LOAD]),
        "most_in_flight": max((row["inflight"] for row in series(found)), default=0),
    }


def costs(
    plan: Plan, found: Found, phase: Mapping[str, Any], idle: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Of each task of a phase, less what ``idle`` costs; without ``idle``, of a scheduler's second."""
    first, last = edge(found["samples"], phase["from"]), edge(found["samples"], phase["to"])
    lasted_s, schedulers = last["at"] - first["at"], plan.amounts.schedulers
    number = [of["name"] for of in found["phases"]].index(phase["name"])
    tasks = sum(phase_of(index) == number for index in found["observed"])

    def cost(spent: float, fixed: float) -> float:
        if idle is None:
            return spent / lasted_s / schedulers
        return (spent - fixed * lasted_s * schedulers) / tasks if tasks else 0.0

    def each(spent: Mapping[str, float], part: str) -> dict[str, float]:
        fixed = {} if idle is None else idle[part]
        named = {name: cost(value, fixed.get(name, 0.0)) for name, value in spent.items()}
        return {name: round(value, 4) for name, value in sorted(named.items()) if abs(value) >= 5e-5}

    scheduler_lines = [
        _between(found["lines"][name], phase["from"], phase["to"]) for name in _schedulers(found)
    ]
    own_s = sum(lines[-1]["own_cpu_s"] - lines[0]["own_cpu_s"] for lines in scheduler_lines)
    cpu_s = {name: last["cpu_s"][name] - first["cpu_s"][name] for name in last["cpu_s"]}
    executor_s = sum(of for name, of in cpu_s.items() if name in _schedulers(found)) - own_s
    servers_s = {name: of for name, of in cpu_s.items() if name in SERVERS}
    return {
        "seconds": round(lasted_s, 1),
        "tasks": tasks,
        "calls": each(difference(of_executors(first["calls"]), of_executors(last["calls"])), "calls"),
        "commands": each(_commands(found, first, last), "commands"),
        "rows": each(_rows(first, last), "rows"),
        "statements": each(
            {"all": sum(lines[-1]["statements"] - lines[0]["statements"] for lines in scheduler_lines)},
            "statements",
        ),
        "cpu_ms": each({"executor": executor_s * 1000} | _in_ms(servers_s), "cpu_ms"),
        "beats": round(sum(len(lines) for lines in scheduler_lines)),
    }


#: Whose processor time is told beside the executor's.
SERVERS = ("postgres", "valkey", "api")


def _in_ms(spent_s: Mapping[str, float]) -> dict[str, float]:
    return {name: of * 1000 for name, of in spent_s.items()}


def _schedulers(found: Found) -> list[str]:
    return sorted(name for name in found["lines"] if name.startswith("scheduler-"))


def edge(samples: Sequence[Mapping[str, Any]], at: float) -> Mapping[str, Any]:
    """The sample that was taken then, or the first one after."""
    return next((sample for sample in samples if sample["at"] >= at), samples[-1])


def _between(lines: Sequence[Mapping[str, Any]], begin: float, end: float) -> list[Mapping[str, Any]]:
    """Lines of these seconds; at least the first and the last of them all."""
    inside = [line for line in lines if begin <= line["at"] <= end]
    return inside or [lines[0], lines[-1]]


def difference(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """What has been added, by name."""
    return {name: value - first.get(name, 0) for name, value in last.items()}


def _commands(found: Found, first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, float]:
    """By command, less what the workers of this run have said themselves."""
    lines = found["lines"]["worker"]
    workers = difference(
        _last_before(lines, first["at"]).get("commands", {}),
        _last_before(lines, last["at"]).get("commands", {}),
    )
    spent = difference(first["commands"], last["commands"])
    return {name: value - workers.get(name, 0) for name, value in spent.items()}


def _last_before(lines: Sequence[Mapping[str, Any]], at: float) -> Mapping[str, Any]:
    return next((line for line in reversed(lines) if line["at"] <= at), {})


def _rows(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, float]:
    """Rows written into the ledger's tables; those of Airflow's are the run's own."""
    found = {}
    for table, after in last["tables"].items():
        if table.startswith("hybrid_"):
            before = first["tables"].get(table, {})
            for what, value in difference(before, after).items():
                if what != "in_place":
                    found[f"{table.removeprefix('hybrid_')} {what}"] = value
    return found


def memory(found: Found, phase: Mapping[str, Any]) -> dict[str, float]:
    """The most that each process and server had in a phase, MiB."""
    most: dict[str, float] = {}
    for sample in found["samples"]:
        if phase["from"] <= sample["at"] <= phase["to"]:
            for name, mib in sample["pss_mib"].items():
                most[name] = max(most.get(name, 0.0), round(mib, 1))
    return most


def cores(found: Found, phase: Mapping[str, Any]) -> dict[str, float]:
    """Processors that each process kept busy while the load was offered."""
    first, last = edge(found["samples"], phase["began"]), edge(found["samples"], phase["offered"])
    lasted_s = last["at"] - first["at"]
    return {name: round((last["cpu_s"][name] - first["cpu_s"][name]) / lasted_s, 3) for name in last["cpu_s"]}


def sizes(found: Found) -> dict[str, float]:
    """Bytes: of a row in the ledger with its indexes, and of a key of each kind."""
    ledger = found["ledger"]
    rows = max(1, ledger["rows"])
    keys = {
        f"key {kind}": round(of["bytes"] / of["keys"], 1)
        for kind, of in sorted(found["keys"].items())
        if kind in {"attempt", "result"}
    }
    return {
        "row": round(ledger["table_bytes"] / rows, 1),
        "row in indexes": round(ledger["index_bytes"] / rows, 1),
        **keys,
    }


def lags(plan: Plan, found: Found) -> dict[str, dict[str, float]]:
    """Seconds under load: queued until accepted by each backend, ended until told, and the beats, in ms."""
    load = next(number for number, phase in enumerate(plan.phases) if phase.name == LOAD)
    waits: dict[str, list[float]] = {}
    for index, backend, _, waited_s in found["ledger"]["waits"]:
        if phase_of(index) == load:
            waits.setdefault(f"queued to accepted, {backend}, s", []).append(waited_s)
    heard = [lag for index, _, lag in ends_heard(found) if phase_of(index) == load]
    lines = [line for name in _schedulers(found) for line in found["lines"][name] if line["phase"] == load]
    told = waits | {
        "ended to told, s": heard,
        "heartbeat, median of a second, ms": [line["beat_ms"] for line in lines],
        "heartbeat, longest of a second, ms": [line["worst_beat_ms"] for line in lines],
        "handing over, median of a second, ms": [line["handing_ms"] for line in lines if line["handing_ms"]],
        "ledger could not be written, s": [line["ledger_lag_s"] for line in lines],
    }
    return {name: spread(values) for name, values in told.items() if values}


def ends_heard(found: Found) -> list[tuple[int, float, float]]:
    """Map index, when it ended, and how many seconds later a scheduler told Airflow."""
    observed, ended = found["observed"], found["ended"]
    return [(index, at, observed[index] - at) for index, at in ended.items() if index in observed]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, 95th percentile, most."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        name: round(ordered[round(last * share)], 4)
        for name, share in zip(("p50", "p95", "most"), SHARES, strict=True)
    }


def series(found: Found) -> list[dict[str, Any]]:
    """By the second, from the run's beginning on: what a picture shows."""
    begin = found["phases"][0]["from"]
    waits, heard = _by_second(_waits(found), begin), _by_second(_heard(found), begin)
    beats = _by_second(
        ((line["at"], line["worst_beat_ms"]) for name in _schedulers(found) for line in found["lines"][name]),
        begin,
    )
    rows = []
    for before, now in zip(found["samples"], found["samples"][1:], strict=False):
        took_s = now["at"] - before["at"]
        if took_s < 0.5:
            continue
        second = int(now["at"] - begin)
        said = [_last_before(found["lines"][name], now["at"]) for name in _schedulers(found)]
        cpu = {name: (of - before["cpu_s"][name]) / took_s for name, of in now["cpu_s"].items()}
        totals = {name: (of - _totals(before)[name]) / took_s for name, of in _totals(now).items()}
        rows.append(
            {
                "second": round(now["at"] - begin, 1),
                "inflight": sum(line.get("inflight", 0) for line in said),
                "cpu": {name: round(of, 3) for name, of in cpu.items()},
                "pss_mib": {name: round(mib, 1) for name, mib in now["pss_mib"].items()},
                **{name: round(of, 1) for name, of in totals.items()},
                "beat_ms": round(max(beats.get(second, [0.0])), 2),
                "accepted_s": round(max(waits.get(second, [0.0])), 3),
                "told_s": round(max(heard.get(second, [0.0])), 3),
            }
        )
    return rows


def _totals(sample: Mapping[str, Any]) -> dict[str, float]:
    """Everybody's, those of workers and nodes included."""
    return {
        "calls": sum(sample["calls"].values()),
        "commands": sum(sample["commands"].values()),
        "rows": sum(_rows({"tables": {}}, sample).values()),
    }


def _waits(found: Found) -> Iterable[tuple[float, float]]:
    return ((at, waited_s) for _, _, at, waited_s in found["ledger"]["waits"])


def _heard(found: Found) -> Iterable[tuple[float, float]]:
    return ((at, lag) for _, at, lag in ends_heard(found))


def _by_second(points: Iterable[tuple[float, float]], begin: float) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for at, value in points:
        found.setdefault(int(at - begin), []).append(value)
    return found


def faults(checks: Mapping[str, Any]) -> list[str]:
    """What no run may have; empty if all is well."""
    wrong = [
        f"{checks[name]} {words}"
        for name, words in (
            ("lost", "tasks were offered and never told of"),
            ("failed", "tasks failed, although none of them could"),
            ("sent_again", "attempts were sent more than once, although nobody died"),
            ("without_a_row", "attempts have no row in the ledger"),
        )
        if checks[name]
    ]
    return wrong + [
        f"{number} {name.replace('_', ' ')} left" for name, number in checks["left"].items() if number
    ]


def markdown(plan: Plan, said: Mapping[str, Any]) -> str:
    """For people."""
    a, checks = plan.amounts, said["checks"]
    offered = (
        f"{a.schedulers} schedulers; for {a.minutes:g} minutes {a.tasks_an_hour:,} Celery tasks an hour, each"
        f" {a.task_life_s:g} s long, and {a.pods / a.pod_life_s:.1f} pods a second, each {a.pod_life_s:g} s"
        f" long (means). At most {said['most_in_flight']:,} were in flight. {checks['offered']:,} tasks in"
        f" all, the phases before the load included; {checks['lost']} lost, {checks['failed']} failed,"
        f" {checks['sent_again']} sent again, {sum(checks['left'].values())} left anywhere."
    )
    titles = ["", "a scheduler, idle, each second", "each Celery task, alone", "each pod, alone"]
    lines = [
        offered,
        "",
        f"| {' | '.join([*titles, 'each of both, under load'])} |",
        "| --- | --- | --- | --- | --- |",
    ]
    columns = [said["fixed"], *(said["each"][name] for name in (CELERY_ALONE, PODS_ALONE, LOAD))]
    for title, part in PARTS.items():
        lines.append(f"| {title} | " + " | ".join(f"{sum(of[part].values()):.2f}" for of in columns) + " |")
    for name in sorted({name for of in columns for name in of["cpu_ms"]}):
        told = " | ".join(f"{of['cpu_ms'].get(name, 0.0):.2f}" for of in columns)
        lines.append(f"| processor, {name}, ms | {told} |")
    lines += ["", "| lag under load | median | 95 % | most |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {of['p50']:.3g} | {of['p95']:.3g} | {of['most']:.3g} |"
        for name, of in said["lags"].items()
    ]
    lines += ["", "| | processors busy, load | most memory, MiB |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {said['cores'].get(name, 0.0):.2f} | {mib:.0f} |"
        for name, mib in sorted(said["memory_mib"].items())
    ]
    bytes_of = ", ".join(f"{name} {size:,.0f}" for name, size in said["bytes"].items())
    return "\n".join([*lines, "", f"Bytes, on average: {bytes_of}."]) + "\n"


#: Rows of the table of costs.
PARTS = {
    "API calls": "calls",
    "Redis commands": "commands",
    "rows of the ledger's tables written": "rows",
    "database statements": "statements",
}
