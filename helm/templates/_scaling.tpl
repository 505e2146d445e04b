{{/* What scales a pool: the executor's own routing says which queues count, and one definition gives the query. */}}

{{- define "hybrid.regex" -}}
{{- /* A wildcard of queues (*, ?, [abc], [!abc]) as a regular expression. */ -}}
{{- $quoted := regexQuoteMeta . | replace "\\*" ".*" | replace "\\?" "." | replace "\\[!" "[^" | replace "\\[" "[" | replace "\\]" "]" | replace "\\-" "-" -}}
{{- printf "^%s$" $quoted -}}
{{- end }}

{{- define "hybrid.backend" -}}
{{- /* (list $ "queue"): where its tasks go; routes are asked first, as the executor does. */ -}}
{{- $root := index . 0 }}
{{- $queue := index . 1 }}
{{- $backend := "" }}
{{- range $root.Values.routing.routes }}
{{- $patterns := kindIs "string" .queue | ternary (list .queue) .queue }}
{{- range $pattern := $patterns }}
{{- if and (not $backend) (regexMatch (include "hybrid.regex" $pattern) $queue) }}{{ $backend = "matched" }}{{ end }}
{{- end }}
{{- if eq $backend "matched" }}{{ $backend = .backend }}{{ end }}
{{- end }}
{{- range $root.Values.routing.kubernetesQueues }}
{{- if and (not $backend) (regexMatch (include "hybrid.regex" .) $queue) }}{{ $backend = "kubernetes" }}{{ end }}
{{- end }}
{{- $backend | default "celery" -}}
{{- end }}

{{- define "hybrid.scaling.query" -}}
{{- /* (list $ pool): the text of hybrid_executor/scaling, with this pool's values. */ -}}
{{- $root := index . 0 }}
{{- $pool := index . 1 }}
{{- $tasks := list }}
{{- range uniq $pool.queues }}
{{- if eq (include "hybrid.backend" (list $root .)) "celery" }}{{ $tasks = append $tasks . }}{{ end }}
{{- end }}
{{- $executors := append (splitList ":" $root.Values.airflow.executor) "HybridExecutor" | uniq }}
{{- $values := dict "queues" (uniq $pool.queues) "taskQueues" $tasks "executors" $executors "defaultExecutor" (first (splitList ":" $root.Values.airflow.executor)) "concurrency" $pool.concurrency }}
{{- tpl ($root.Files.Get (printf "files/scaling-%s.sql.tpl" $root.Values.database.dialect)) (mergeOverwrite $values (dict "Template" $root.Template)) }}
{{- end }}

{{- define "hybrid.live.prefix" -}}
{{- /* Of the live half's keys: whoever asks has to know it. */ -}}
{{- dig "hybrid_executor" "live_prefix" (include "hybrid.name.deployment" .) .Values.airflow.config -}}
{{- end }}

{{- define "hybrid.redis.formula" -}}
{{- /* Of a pool: its queues added up, by names that a formula can spell. */ -}}
{{- $names := list }}
{{- range $index, $_ := uniq .queues }}{{ $names = append $names (printf "queue_%d" $index) }}{{ end }}
{{- join " + " $names -}}
{{- end }}

{{- define "hybrid.redis.triggers" -}}
{{- /* (list $ pool): a trigger for each queue, on the live half's set of what is in flight there. */ -}}
{{- $root := index . 0 }}
{{- $pool := index . 1 }}
{{- $keda := $root.Values.scaling.keda }}
{{- range $index, $queue := uniq $pool.queues }}
- type: {{ $keda.redis.type }}
  name: queue_{{ $index }}
  {{- if $keda.redis.secret.name }}
  authenticationRef: {name: {{ include "hybrid.name" (list $root "keda") }}}
  {{- end }}
  metadata:
    {{- with $keda.triggerMetadata }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{ ternary "address" "addresses" (eq $keda.redis.type "redis") }}: {{ $keda.redis.address | quote }}
    {{- if ne $keda.redis.type "redis-cluster" }}
    databaseIndex: {{ $keda.redis.database | quote }}
    {{- end }}
    listName: {{ printf "{%s}:inflight:celery:%s" (include "hybrid.live.prefix" $root) $queue | quote }}
    listLength: {{ $pool.concurrency | quote }}
{{- end }}
{{- end }}

{{- define "hybrid.behavior" -}}
{{- /* Of the HorizontalPodAutoscaler; with the tolerance where there is one. */ -}}
{{- $behavior := deepCopy .Values.scaling.behavior }}
{{- if not (kindIs "invalid" .Values.scaling.tolerance) }}
{{- range list "scaleUp" "scaleDown" }}
{{- $_ := set $behavior . (merge (get $behavior . | default dict) (dict "tolerance" ($.Values.scaling.tolerance | toString))) }}
{{- end }}
{{- end }}
{{- toYaml $behavior }}
{{- end }}
