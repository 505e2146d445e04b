"""The page in Airflow's UI, mounted at ``/hybrid``: overview, ledger, runs, tasks, workers; and as JSON.

Answers GET and nothing else. Every route depends on Airflow's own login and on
``access``; pages and JSON are made of the same answers. Made when the API
server is first asked for it (``links``), never in a scheduler or a worker.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException as AnyHTTPException

from hybrid_executor import overview
from hybrid_executor.contract import MetadataUnavailable
from hybrid_executor.ledger.queries import Place, Wanted
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import SubmissionRecord
from hybrid_executor.plugin import reading, words
from hybrid_executor.plugin.access import Reader, ReaderDep, cluster_reader, task_reader
from hybrid_executor.plugin.answers import (
    AttemptsAnswer,
    OverviewAnswer,
    RunAnswer,
    TaskAnswer,
    WorkersAnswer,
    attempt,
    instance,
    overview_answer,
    run_answer,
    run_path,
    told,
    waiting_for_workers,
    what_to_do,
    workers_answer,
)
from hybrid_executor.plugin.asking import Asking, ask_everybody
from hybrid_executor.plugin.questions import NO_INDEX, RunQuestion, Search, TaskQuestion, WorkersQuestion
from hybrid_executor.version import __version__

HERE = Path(__file__).parent
#: Where the ledger begins if nobody says.
LATELY = timedelta(days=1)
#: Attempts and instances that a task's story has; the newest.
TOLD_MAX = 20
#: What a page may load: its own style and script, and nothing of anybody else's.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)

app = FastAPI(
    title="Airflow Hybrid Executor",
    version=__version__,
    description="Where each task is, and why: what is queued, waits, runs and has ended. Read-only.",
    dependencies=[Depends(get_user)],
    openapi_url=None,
)
_surveys = reading.Surveys()
_asking = Asking(ask_everybody)
_pages = Environment(
    loader=PackageLoader("hybrid_executor.plugin"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
_pages.filters.update(words.FILTERS)
_pages.globals.update(words.GLOBALS)

ClusterReaderDep = Annotated[Reader, Depends(cluster_reader)]
SearchDep = Annotated[Search, Query()]
TaskDep = Annotated[TaskQuestion, Query()]
RunDep = Annotated[RunQuestion, Query()]
WorkersDep = Annotated[WorkersQuestion, Query()]


def ledger_tag(request: Request, who: ReaderDep) -> str:
    """The tag of what this user would be answered now; 304 for who has just that."""
    return _unless_known(request, reading.version(who, reading.now()))


def task_tag(request: Request, who: ReaderDep, question: TaskDep) -> str:
    """The same for a task, whose state in Airflow may change while the ledger stands still."""
    return _unless_known(
        request, reading.version(who, reading.now(), reading.states(**question.model_dump()))
    )


def _unless_known(request: Request, version: str) -> str:
    tag = f'W/"{version}"'
    if tag in request.headers.get("if-none-match", ""):
        raise HTTPException(304, headers={"ETag": tag})
    return tag


def run_tag(request: Request, who: ReaderDep, question: RunDep) -> str:
    """The same for a run."""
    mark = reading.run_mark(question.dag_id, question.run_id)
    return _unless_known(request, reading.version(who, reading.now(), mark))


def workers_tag(request: Request, who: ClusterReaderDep) -> str:
    """The same for the workers, who are asked again every few seconds."""
    seen = _asking.newest()
    return _unless_known(request, reading.version(who, reading.now(), str(seen and seen.at)))


TagDep = Annotated[str, Depends(ledger_tag)]
RunTagDep = Annotated[str, Depends(run_tag)]
WorkersTagDep = Annotated[str, Depends(workers_tag)]
TaskTagDep = Annotated[str, Depends(task_tag)]


@app.get("/api/overview", tags=["overview"])
def overview_json(request: Request, who: ReaderDep, tag: TagDep, response: Response) -> OverviewAnswer:
    """What is queued, waits, runs and has ended in the last hour, by queue."""
    response.headers["ETag"] = tag
    return _overview(request, who)


@app.get("/api/attempts", tags=["ledger"])
def attempts_json(
    request: Request, who: ReaderDep, tag: TagDep, search: SearchDep, response: Response
) -> AttemptsAnswer:
    """A page of the ledger, newest first; the next begins at ``following``."""
    response.headers["ETag"] = tag
    return _attempts(request, who, search)


@app.get("/api/task", tags=["task"], dependencies=[Depends(task_reader)])
def task_json(request: Request, tag: TaskTagDep, question: TaskDep, response: Response) -> TaskAnswer:
    """Where a task ran, why there, and all that happened to it."""
    response.headers["ETag"] = tag
    return _task(request, question)


@app.get("/api/run", tags=["run"], dependencies=[Depends(task_reader)])
def run_json(tag: RunTagDep, question: RunDep, response: Response) -> RunAnswer:
    """Where the task instances of a run are, counted: each is in one place."""
    response.headers["ETag"] = tag
    return _run(question)


@app.get("/api/workers", tags=["workers"])
def workers_json(tag: WorkersTagDep, question: WorkersDep, response: Response) -> WorkersAnswer:
    """The Celery workers as `airflow hybrid workers` shows them, by name, and nodes with tasks in pods."""
    response.headers["ETag"] = tag
    return _workers(question)


@app.get("/openapi.json", include_in_schema=False)
def schema() -> dict[str, Any]:
    """What may be asked and what is answered."""
    return app.openapi()


@app.get("/", response_class=HTMLResponse, include_in_schema=False)
def overview_page(request: Request, who: ReaderDep, tag: TagDep) -> Response:
    """How things stand."""
    return _page(request, "overview.html", tag, who, answer=_overview(request, who))


@app.get("/attempts", response_class=HTMLResponse, include_in_schema=False)
def attempts_page(request: Request, who: ReaderDep, tag: TagDep, search: SearchDep) -> Response:
    """The ledger."""
    answer = _attempts(request, who, search)
    return _page(request, "attempts.html", tag, who, answer=answer, search=search)


@app.get("/task", response_class=HTMLResponse, include_in_schema=False, dependencies=[Depends(task_reader)])
def task_page(request: Request, who: ReaderDep, tag: TaskTagDep, question: TaskDep) -> Response:
    """A task's story; who comes with no map index in its place is sent to an address without one."""
    if request.query_params.get("map_index") == NO_INDEX:
        asked = question.model_dump(exclude_none=True)
        return RedirectResponse(f"{_root(request)}/hybrid/task?{urlencode(asked)}")
    return _page(request, "task.html", tag, who, answer=_task(request, question), question=question)


@app.get("/run", response_class=HTMLResponse, include_in_schema=False, dependencies=[Depends(task_reader)])
def run_page(request: Request, who: ReaderDep, tag: RunTagDep, question: RunDep) -> Response:
    """A run."""
    return _page(request, "run.html", tag, who, answer=_run(question), run=run_path(_root(request), question))


@app.get("/workers", response_class=HTMLResponse, include_in_schema=False)
def workers_page(
    request: Request, who: ClusterReaderDep, tag: WorkersTagDep, question: WorkersDep
) -> Response:
    """Who runs tasks."""
    return _page(request, "workers.html", tag, who, answer=_workers(question), search=question)


@app.get("/static/{name}", include_in_schema=False)
def static(name: str) -> Response:
    """The page's style or its script."""
    if name not in ("page.css", "page.js"):
        raise HTTPException(404, "There is no such file")
    return FileResponse(HERE / "static" / name, headers={"Cache-Control": "private, max-age=3600"})


def _overview(request: Request, who: Reader) -> OverviewAnswer:
    seen = overview.overview(_surveys.newest(reading.now()), who.dag_ids)
    return overview_answer(seen, reading.cluster() if who.sees_cluster else None, _root(request))


def _attempts(request: Request, who: Reader, search: Search) -> AttemptsAnswer:
    now, asked = reading.now(), search.model_dump(exclude={"after", "limit", "since"})
    dag_ids = who.dag_ids if search.dag_id is None else who.dag_ids & {search.dag_id}
    since = search.since or now - LATELY
    if not search.since and search.run_id and search.dag_id and search.dag_id in dag_ids:
        # All of a run, however long ago.
        since, last = reading.span_of_run(search.dag_id, search.run_id) or (since, now)
        asked["until"] = search.until or last + timedelta(microseconds=1)
    wanted = Wanted(since=since, dag_ids=dag_ids, **asked)
    found = reading.page(wanted, search.limit, Place.at(search.after) if search.after else None)
    return AttemptsAnswer(
        at=now,
        attempts=[attempt(record, now, _root(request)) for record in found.records],
        following=found.following and found.following.mark,
    )


def _task(request: Request, question: TaskQuestion) -> TaskAnswer:
    now, asked = reading.now(), question.model_dump()
    views, records = reading.task(**asked)
    # Of a mapped task the newest of each instance says enough; each has a page of its own.
    mapped = question.map_index is None and len({_index_of(record) for record in records}) > 1
    shown = list({_index_of(record): record for record in records}.values()) if mapped else records
    return TaskAnswer(
        at=now,
        dag_id=question.dag_id,
        run_id=question.run_id,
        task_id=question.task_id,
        instances=[instance(view) for view in views[:TOLD_MAX]],
        attempts=[told(record, now, _root(request)) for record in shown[-TOLD_MAX:]],
        is_cut=max(len(shown), len(views)) > TOLD_MAX,
        advice="" if mapped else what_to_do(records, views),
    )


def _run(question: RunQuestion) -> RunAnswer:
    asked = question.model_dump()
    return run_answer(reading.run_count(**asked), reading.now(), **asked)


def _workers(question: WorkersQuestion) -> WorkersAnswer:
    seen = _asking.newest()
    if seen is None:
        return waiting_for_workers()
    rows, nodes = reading.workforce_rows(seen)
    return workers_answer(seen.at, rows, nodes, problems=seen.force.problems, asked=question)


def _index_of(record: SubmissionRecord) -> int:
    return record.address.map_index if record.address else -1


def _root(request: Request) -> str:
    """The path under which Airflow's UI is; empty where it is at the top of its host."""
    root: str = request.scope.get("app_root_path", "")
    return root.rstrip("/")


def _page(
    request: Request, name: str, tag: str = "", who: Reader | None = None, status: int = 200, **values: Any
) -> HTMLResponse:
    text = _pages.get_template(name).render(
        root=_root(request),
        base=f"{_root(request)}/hybrid",
        tag=tag,
        sees_cluster=who is not None and who.sees_cluster,
        **values,
    )
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(text, status, headers | ({"ETag": tag} if tag else {}))


@app.middleware("http")
async def _keep_private(request: Request, call_next: Any) -> Response:
    """What one user is answered is in nobody else's cache, and is asked for again each time."""
    response: Response = await call_next(request)
    response.headers.setdefault("Cache-Control", "private, no-cache")
    return response


@app.exception_handler(AnyHTTPException)
def _refused(request: Request, error: AnyHTTPException) -> Response:
    if error.status_code == 304:
        return Response(status_code=304, headers=error.headers)
    return _problem(request, error.status_code, [str(error.detail)])


@app.exception_handler(RequestValidationError)
async def _misunderstood(request: Request, error: RequestValidationError) -> Response:
    if _is_for_a_program(request):
        return await request_validation_exception_handler(request, error)
    problems = [f"{one['loc'][1]}: {one['msg']}" for one in error.errors()]
    return _problem(request, 422, problems)


@app.exception_handler(LedgerUnavailable)
@app.exception_handler(MetadataUnavailable)
@app.exception_handler(SQLAlchemyError)
def _away(request: Request, error: Exception) -> Response:
    # SQLAlchemy's own words hold the statement and its values.
    what = "the metadata database does not answer" if isinstance(error, SQLAlchemyError) else str(error)
    return _problem(request, 503, [what])


def _problem(request: Request, status: int, problems: Sequence[str]) -> Response:
    """The same problem for a program and for a person."""
    if _is_for_a_program(request):
        return JSONResponse({"detail": "; ".join(problems)}, status)
    return _page(request, "problem.html", status=status, code=status, problems=[p[:500] for p in problems])


def _is_for_a_program(request: Request) -> bool:
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")).startswith("/api/")
