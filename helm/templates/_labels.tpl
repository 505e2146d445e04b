{{/* Labels. Selectors never change in a release's life, so nothing of a version is in them. */}}

{{- define "hybrid.selector" -}}
{{- /* (list $ "scheduler") */ -}}
app.kubernetes.io/name: hybrid-executor
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "hybrid.labels" -}}
{{- $root := index . 0 -}}
{{ include "hybrid.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "hybrid.labels.pool" -}}
{{- /* By these the executor finds a pool's pods. */ -}}
hybrid-executor/pool: {{ index . 1 }}
hybrid-executor/deployment: {{ include "hybrid.name.deployment" (index . 0) }}
{{- end }}

{{- define "hybrid.metadata" -}}
{{- /* (list $ "name" "component") */ -}}
name: {{ index . 1 }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "hybrid.labels" (list (index . 0) (index . 2)) | nindent 2 }}
{{- end }}
