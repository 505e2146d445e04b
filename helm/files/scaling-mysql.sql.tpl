{{- /* Made by helm/generate_scaling.py out of hybrid_executor/scaling/query.py: don't edit.
       Give it .queues, .taskQueues (those of them whose tasks go to Celery), .executors (lists),
       .defaultExecutor and .concurrency. */ -}}
SELECT ceil((
  (SELECT count(DISTINCT s.attempt_id)
     FROM hybrid_submission s
     JOIN task_instance ti ON ti.external_executor_id = s.attempt_id
    WHERE s.ended_at IS NULL
      AND s.worker_leaves_at IS NULL
      AND s.backend = 'celery'
      AND CAST(s.queue AS BINARY) IN ({{ range $index, $value := .queues }}{{ if $index }}, {{ end }}'{{ ($value | replace "\\" "\\\\") | replace "'" "''" }}'{{ else }}NULL{{ end }})
      AND ti.state IN ('queued', 'restarting', 'running')
      AND working_set IS TRUE)
  +
  (SELECT count(DISTINCT s.attempt_id)
     FROM hybrid_submission s
    WHERE s.ended_at IS NULL
      AND s.worker_leaves_at IS NULL
      AND s.backend = 'celery'
      AND CAST(s.queue AS BINARY) IN ({{ range $index, $value := .queues }}{{ if $index }}, {{ end }}'{{ ($value | replace "\\" "\\\\") | replace "'" "''" }}'{{ else }}NULL{{ end }})
      AND s.kind <> 'task')
  +
  (SELECT count(*)
     FROM task_instance ti
    WHERE ti.state IN ('queued', 'restarting', 'running')
      AND working_set IS TRUE
      AND CAST(ti.queue AS BINARY) IN ({{ range $index, $value := .taskQueues }}{{ if $index }}, {{ end }}'{{ ($value | replace "\\" "\\\\") | replace "'" "''" }}'{{ else }}NULL{{ end }})
      AND COALESCE(ti.executor, '{{ (.defaultExecutor | replace "\\" "\\\\") | replace "'" "''" }}') IN ({{ range $index, $value := .executors }}{{ if $index }}, {{ end }}'{{ ($value | replace "\\" "\\\\") | replace "'" "''" }}'{{ else }}NULL{{ end }})
      AND (SELECT max(s.submission) FROM hybrid_submission s
            WHERE s.attempt_id = ti.external_executor_id) IS NULL)
) / {{ int .concurrency }}.0) AS workers
FROM (SELECT TRUE AS working_set) AS every_row
