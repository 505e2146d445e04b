"""What was configured: settings, versions, routes, pod templates. Asks nothing but files."""

from collections.abc import Generator, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.doctor.finding import Finding, findings
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import ConfigError
from hybrid_executor.pods.build import ENTRY_OWN
from hybrid_executor.routing import RoutingTable
from hybrid_executor.settings import Settings, load_routing

DISTRIBUTION = "airflow-hybrid-executor"


def settings(settings: Settings) -> Iterator[Finding]:
    for problem in settings.problems:
        yield Finding("settings", problem)
    if not settings.problems:
        yield Finding("settings", note="; ".join(settings.notes))
    yield Finding(
        "token key",
        None
        if settings.signing_key_is_set
        else "[api_auth] jwt_secret: is not set, so each process makes up its own and no task can start;"
        " set the same long random value for every component",
    )


def versions() -> Finding:
    problems = []
    try:
        needed = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return Finding("versions", f"{DISTRIBUTION} is not installed as a package; install it with pip")
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement} is not installed")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            problems.append(f"{requirement.name} is {have}, needed is {requirement.specifier}")
    return Finding("versions", f"{'; '.join(problems)}; install what is needed" if problems else None)


def routes(settings: Settings) -> Generator[Finding, None, RoutingTable | None]:
    """Return the table besides, or None."""
    try:
        table = load_routing(settings)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("routes", problem)
        return None
    yield Finding("routes", note=settings.routes_file or "no routes file")
    forgiving = ", ".join(
        rule.pattern
        for rule in table.rows()
        if rule.route.retry_on and rule.route.backend is BackendName.KUBERNETES
    )
    if settings.measure_pods:
        text = f"pods are started by {ENTRY_OWN} (measure_pods): it must be in their images"
        yield Finding("routes", note=text)
    elif forgiving:
        text = f"pods of {forgiving} are started by {ENTRY_OWN} (retry_on): it must be in their image"
        yield Finding("routes", note=text)
    return table


def pod_templates(settings: Settings, table: RoutingTable | None) -> Iterator[Finding]:
    """Each file, and each route whose ``pod`` defaults do not go with its template."""
    templates = Templates(settings.pod_template_file)
    routes = [rule.route for rule in table.rows()] if table else []
    paths = {settings.pod_template_file: "[kubernetes_executor] pod_template_file"}
    for route in routes:
        paths.setdefault(route.pod_template_file or "", route.rule)
    told: set[str] = set()
    for path, source in paths.items():
        if path:
            problems = templates.problems_of(path)
            told.update(problems)
            yield from findings(f"pod template {path}", [f"{line} (named by {source})" for line in problems])
    yield from (Finding("routes", line) for line in templates.load(routes) if line not in told)
