{{/* Probes of components whose heart beats in the database alone. A look costs a Python process, so it is rare. */}}

{{- define "hybrid.probes.job" -}}
startupProbe:
  exec:
    command: [airflow, jobs, check, --local, --job-type, {{ . }}]
  periodSeconds: 20
  failureThreshold: 30
  timeoutSeconds: 60
livenessProbe:
  exec:
    command: [airflow, jobs, check, --local, --job-type, {{ . }}]
  periodSeconds: 120
  failureThreshold: 5
  timeoutSeconds: 60
{{- end }}

{{- define "hybrid.probes.scheduler" -}}
startupProbe:
  httpGet: {path: /health, port: health}
  periodSeconds: 5
  failureThreshold: 60
  timeoutSeconds: 10
livenessProbe:
  httpGet: {path: /health, port: health}
  periodSeconds: 30
  failureThreshold: 10
  timeoutSeconds: 20
{{- end }}

{{- define "hybrid.probes.http" -}}
{{- /* (list path port): ready when it answers; only long silence ends it, for load is no reason. */ -}}
startupProbe:
  httpGet: {path: {{ index . 0 }}, port: {{ index . 1 }}}
  periodSeconds: 5
  failureThreshold: 60
  timeoutSeconds: 10
readinessProbe:
  httpGet: {path: {{ index . 0 }}, port: {{ index . 1 }}}
  periodSeconds: 10
  failureThreshold: 6
  timeoutSeconds: 20
livenessProbe:
  httpGet: {path: {{ index . 0 }}, port: {{ index . 1 }}}
  periodSeconds: 30
  failureThreshold: 10
  timeoutSeconds: 20
{{- end }}
