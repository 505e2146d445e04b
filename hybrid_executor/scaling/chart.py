"""The query as a text for Helm, which fills in a pool's values as ``query`` fills in literals.

Pure. The chart can't run Python, and a query that somebody copies by hand into
it is true until the next release: so the chart's file is made of the same text
by ``helm/generate_scaling.py``, and a test holds it current and both byte by
byte the same for the same pool.
"""

from hybrid_executor.scaling.query import TRIGGER, Dialect, filled

HEADER = """\
{{- /* Made by helm/generate_scaling.py out of hybrid_executor/scaling/query.py: don't edit.
       Give it .queues, .taskQueues (those of them whose tasks go to Celery), .executors (lists),
       .defaultExecutor and .concurrency. */ -}}
"""


def chart_template(dialect: Dialect) -> str:
    """The trigger's query as a Helm template."""
    values = {
        "queues": _list(dialect, "queues"),
        "task_queues": _list(dialect, "taskQueues"),
        "executors": _list(dialect, "executors"),
        "default_executor": f"'{{{{ {_escaped(dialect, '.defaultExecutor')} }}}}'",
        "concurrency": "{{ int .concurrency }}",
    }
    return HEADER + filled(TRIGGER, dialect, values)


def _list(dialect: Dialect, name: str) -> str:
    each = f"{{{{ if $index }}}}, {{{{ end }}}}'{{{{ {_escaped(dialect, '$value')} }}}}'"
    return f"{{{{ range $index, $value := .{name} }}}}{each}{{{{ else }}}}NULL{{{{ end }}}}"


def _escaped(dialect: Dialect, value: str) -> str:
    text = f'({value} | replace "\\\\" "\\\\\\\\")' if dialect == "mysql" else value
    return f"""{text} | replace "'" "''\""""
