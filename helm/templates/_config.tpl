{{/* What is computed from values before any object is written: pools, namespaces, Airflow's settings. */}}

{{- define "hybrid.pools" -}}
{{- /* Name → pool with its defaults, as YAML. Refuses what no schema can compare. */ -}}
{{- $served := dict }}
{{- $pools := dict }}
{{- range $name, $own := .Values.pools }}
{{- $pool := mergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy $own) }}
{{- /* Requests and limits belong together: a pool's are its own, whole. */ -}}
{{- with $own.resources }}{{ $_ := set $pool "resources" . }}{{ end }}
{{- range $queue := $pool.queues }}
{{- with get $served $queue }}
{{- if ne . $name }}
{{- fail (printf "pools.%s.queues: %q is served by pool %s too; a queue belongs to exactly one pool" $name $queue .) }}
{{- end }}
{{- end }}
{{- $_ := set $served $queue $name }}
{{- end }}
{{- if gt (int $pool.minReplicas) (int $pool.maxReplicas) }}
{{- fail (printf "pools.%s: minReplicas is %d and maxReplicas %d; it must not be more" $name (int $pool.minReplicas) (int $pool.maxReplicas)) }}
{{- end }}
{{- if kindIs "invalid" $pool.gracePeriodSeconds }}
{{- $_ := set $pool "gracePeriodSeconds" (ternary 3600 (add (int $.Values.workers.longestTaskSeconds) (int $pool.drainMarginSeconds)) (kindIs "invalid" $.Values.workers.longestTaskSeconds)) }}
{{- end }}
{{- if gt (sub (int $pool.gracePeriodSeconds) (int $pool.drainMarginSeconds)) (include "hybrid.longestTask" $ | int64) }}
{{- fail (printf "pools.%s: a worker drains for %d seconds, and what runs longer than %s is delivered to another one; set workers.longestTaskSeconds" $name (sub (int $pool.gracePeriodSeconds) (int $pool.drainMarginSeconds)) (include "hybrid.longestTask" $)) }}
{{- end }}
{{- if ge (int $pool.drainMarginSeconds) (int $pool.gracePeriodSeconds) }}
{{- fail (printf "pools.%s: drainMarginSeconds is %d and gracePeriodSeconds %d; it must be less" $name (int $pool.drainMarginSeconds) (int $pool.gracePeriodSeconds)) }}
{{- end }}
{{- if eq $.Values.scaling.by "none" }}
{{- $_ := set $pool "minReplicas" $pool.replicas }}
{{- $_ := set $pool "maxReplicas" (max 1 $pool.replicas) }}
{{- else if or (eq $.Values.scaling.by "hpa") $.Values.scaling.keda.redis.address }}
{{- $_ := set $pool "minReplicas" (max 1 $pool.minReplicas) }}
{{- end }}
{{- $_ := set $pools $name $pool }}
{{- end }}
{{- toYaml $pools }}
{{- end }}

{{- define "hybrid.longestTask" -}}
{{- /* In seconds; by the chart's value, or by Airflow's option, or by that one's default. */ -}}
{{- $option := dig "hybrid_executor" "longest_task_s" 86400 .Values.airflow.config }}
{{- .Values.workers.longestTaskSeconds | default $option | int64 -}}
{{- end }}

{{- define "hybrid.namespaces" -}}
{{- /* Two lists: where task pods may run, and with the pools' pods, which are in the release's own. */ -}}
{{- $tasks := list (include "hybrid.taskNamespace" .) }}
{{- range .Values.routing.routes }}
{{- if and .namespace (not .cluster) }}{{ $tasks = append $tasks .namespace }}{{ end }}
{{- end }}
{{- toYaml (dict "tasks" (uniq $tasks) "all" (append $tasks .Release.Namespace | uniq)) }}
{{- end }}

{{- define "hybrid.check" -}}
{{- /* What would only fail when it runs. */ -}}
{{- if and (not .Values.embedded.postgresql.enabled) (not .Values.database.secret.name) }}
{{- fail "database.secret.name: name a Secret with the URL of Airflow's database, or set embedded.postgresql.enabled for a trial" }}
{{- end }}
{{- if and (not .Values.embedded.valkey.enabled) (not .Values.broker.secret.name) }}
{{- fail "broker.secret.name: name a Secret with the URL of Redis or Valkey, or set embedded.valkey.enabled for a trial" }}
{{- end }}
{{- if and .Values.embedded.postgresql.enabled (eq .Values.database.dialect "mysql") }}
{{- fail "database.dialect: embedded.postgresql is a PostgreSQL" }}
{{- end }}
{{- if and (or .Values.embedded.postgresql.enabled .Values.embedded.valkey.enabled) .Values.secrets.name }}
{{- fail "secrets.name: embedded servers have the passwords of the Secret that the chart's Job makes; leave it empty, or use servers of your own" }}
{{- end }}
{{- if and (eq .Values.dags.source "volume") (not .Values.dags.claim) }}
{{- fail "dags.claim: name the claim that holds the DAGs" }}
{{- end }}
{{- if and (eq .Values.dags.source "git") (not .Values.dags.git.repository) }}
{{- fail "dags.git.repository: name the repository that holds the DAGs" }}
{{- end }}
{{- if and .Values.routing.clusters (not .Values.routing.clustersSecret) }}
{{- fail "routing.clustersSecret: name the Secret with the kubeconfigs of routing.clusters" }}
{{- end }}
{{- $option := dig "hybrid_executor" "longest_task_s" "" .Values.airflow.config }}
{{- if and .Values.workers.longestTaskSeconds $option (ne (int64 $option) (int64 .Values.workers.longestTaskSeconds)) }}
{{- fail (printf "workers.longestTaskSeconds is %d and airflow.config.hybrid_executor.longest_task_s %d; set the first alone" (int64 .Values.workers.longestTaskSeconds) (int64 $option)) }}
{{- end }}
{{- if and .Values.scaling.keda.redis.address (or .Values.scaling.keda.podIdentity .Values.scaling.keda.secret.name) }}
{{- fail "scaling.keda: set redis.address, or podIdentity or secret.name for the database, not both" }}
{{- end }}
{{- if and .Values.scaling.keda.podIdentity .Values.scaling.keda.secret.name }}
{{- fail "scaling.keda: set podIdentity or secret.name, not both" }}
{{- end }}
{{- end }}

{{- define "hybrid.dags.folder" -}}
{{- if eq .Values.dags.source "git" }}{{ printf "/opt/airflow/git/repository/%s" .Values.dags.folder | trimSuffix "/" }}
{{- else if eq .Values.dags.source "volume" }}{{ printf "/opt/airflow/dags/%s" .Values.dags.folder | trimSuffix "/" }}
{{- else }}{{ .Values.dags.folder | default "/opt/airflow/dags" }}
{{- end }}
{{- end }}

{{- define "hybrid.config.tasks" -}}
{{- /* Section → option → value: what whoever runs tasks needs. No secret among it. */ -}}
core:
  executor: {{ .Values.airflow.executor }}
  execution_api_server_url: {{ include "hybrid.url.execution" . }}
  dags_folder: {{ include "hybrid.dags.folder" . }}
  plugins_folder: /opt/airflow/plugins
  load_examples: false
  # A pod of a Deployment has no name in DNS: its address leads to the logs that it serves.
  hostname_callable: airflow.utils.net.get_host_ip_address
logging:
  base_log_folder: /opt/airflow/logs
  {{- with .Values.logs.remote }}
  remote_logging: true
  remote_base_log_folder: {{ . }}
  {{- with $.Values.logs.connection }}
  remote_log_conn_id: {{ . }}
  {{- end }}
  {{- end }}
workers:
  # While API servers are replaced their answers are slow; a task that waits for one is better than one that fails.
  execution_api_timeout: 30
celery:
  # Of workers and scheduler: they share one Celery app.
  celery_config_options: hybrid_executor.worker.celery_settings.CELERY_CONFIG
{{- with .Values.workers.longestTaskSeconds }}
hybrid_executor:
  # Of workers and scheduler as well: what is not acknowledged for so long is delivered again.
  longest_task_s: {{ int64 . }}
{{- end }}
{{- if .Values.metrics.statsd.enabled }}
metrics:
  statsd_on: true
  statsd_host: {{ include "hybrid.name" (list . "statsd") }}.{{ .Release.Namespace }}.svc
  statsd_port: 9125
{{- end }}
{{- end }}

{{- define "hybrid.config.components" -}}
{{- $namespaces := (include "hybrid.namespaces" . | fromYaml).tasks }}
core:
  simple_auth_manager_users: {{ .Values.airflow.simpleAuth | quote }}
  simple_auth_manager_passwords_file: /tmp/airflow/passwords.json
scheduler:
  # Its probe is a look at this server, not a Python process.
  enable_health_check: true
{{- with .Values.apiServer.baseUrl }}
api:
  base_url: {{ . }}
{{- end }}
kubernetes_executor:
  in_cluster: true
  namespace: {{ include "hybrid.taskNamespace" . }}
  pod_template_file: /opt/airflow/hybrid/templates/task.yaml
  {{- if gt (len $namespaces) 1 }}
  multi_namespace_mode: true
  multi_namespace_mode_namespace_list: {{ join "," $namespaces }}
  {{- end }}
hybrid_executor:
  # The chart's image has the package; set it to "false" where pods of tasks have another one.
  measure_pods: true
  deployment: {{ include "hybrid.name.deployment" . }}
  kubernetes_queues: {{ join "," .Values.routing.kubernetesQueues | quote }}
  pools_file: /opt/airflow/hybrid/pools.yaml
  {{- if ne (include "hybrid.taskNamespace" .) .Release.Namespace }}
  workers_namespace: {{ .Release.Namespace }}
  {{- end }}
  {{- if .Values.routing.routes }}
  routes_file: /opt/airflow/hybrid/routes.yaml
  {{- end }}
  {{- if .Values.routing.clusters }}
  clusters_file: /opt/airflow/hybrid/clusters.yaml
  {{- end }}
  {{- if .Values.scheduler.clusterView }}
  cluster_view: true
  {{- end }}
  {{- if and (eq .Values.scaling.by "keda") .Values.scaling.keda.redis.address }}
  live_prefix: {{ include "hybrid.live.prefix" . }}
  {{- end }}
  {{- with .Values.flower.url }}
  flower_url: {{ . }}
  {{- end }}
{{- end }}

{{- define "hybrid.variables" -}}
{{- /* (list $ "hybrid.config.tasks" …): the settings of these parts, and the user's before them, as variables. */ -}}
{{- $root := index . 0 }}
{{- $config := dict }}
{{- range rest . }}
{{- $config = mergeOverwrite $config (include . $root | fromYaml) }}
{{- end }}
{{- $config = mergeOverwrite $config (deepCopy $root.Values.airflow.config) }}
{{- $variables := dict "AIRFLOW_HOME" "/tmp/airflow" "CONNECTION_CHECK_MAX_COUNT" "0" }}
{{- range $section, $options := $config }}
{{- range $option, $value := $options }}
{{- $text := ternary ($value | toString | title) ($value | toString) (kindIs "bool" $value) }}
{{- if kindIs "float64" $value }}{{ $text = ternary (int64 $value | toString) $text (eq (int64 $value | float64) $value) }}{{ end }}
{{- $_ := set $variables (printf "AIRFLOW__%s__%s" $section $option | upper) $text }}
{{- end }}
{{- end }}
{{- toYaml $variables }}
{{- end }}

{{- define "hybrid.poolsFile" -}}
version: 1
pools:
  {{- range $name, $pool := include "hybrid.pools" . | fromYaml }}
  {{ $name }}:
    queues:
      {{- toYaml $pool.queues | nindent 6 }}
    concurrency: {{ $pool.concurrency }}
    min_replicas: {{ $pool.minReplicas }}
    max_replicas: {{ $pool.maxReplicas }}
  {{- else }} {}
  {{- end }}
{{- end }}
