{{/* Every name that this chart gives, and nothing else. A component is called as its object: <release>-<component>. */}}

{{- define "hybrid.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "hybrid.name" -}}
{{- /* (list $ "scheduler") */ -}}
{{- printf "%s-%s" (include "hybrid.fullname" (index . 0)) (index . 1) -}}
{{- end }}

{{- define "hybrid.name.pool" -}}
{{- /* (list $ "light"): of its Deployment, ScaledObject or HPA. KEDA puts keda-hpa- before it, and it is a label. */ -}}
{{- $name := printf "%s-worker-%s" (include "hybrid.fullname" (index . 0)) (index . 1) -}}
{{- if gt (len $name) 54 }}
{{- fail (printf "pools.%s: %q is longer than 54 characters; shorten the pool's name or set fullnameOverride" (index . 1) $name) }}
{{- end }}
{{- $name -}}
{{- end }}

{{- define "hybrid.name.serviceAccount" -}}
{{- /* (list $ "scheduler" .Values.scheduler.serviceAccount) */ -}}
{{- (index . 2).name | default (include "hybrid.name" (list (index . 0) (index . 1))) -}}
{{- end }}

{{- define "hybrid.name.secrets" -}}
{{- .Values.secrets.name | default (include "hybrid.name" (list . "generated")) -}}
{{- end }}

{{- define "hybrid.name.deployment" -}}
{{- /* What pods of this Airflow bear, task pods and workers: no other release in the cluster has it. */ -}}
{{- $name := printf "%s.%s" .Release.Namespace (include "hybrid.fullname" .) -}}
{{- if gt (len $name) 63 }}{{ $name = sha256sum $name | trunc 32 }}{{ end -}}
{{- $name -}}
{{- end }}

{{- define "hybrid.name.migration" -}}
{{- /* Another specification is another Job, for a Job cannot be changed. */ -}}
{{- $pod := include "hybrid.migration.pod" . -}}
{{- printf "%s-%s" (include "hybrid.name" (list . "migrate")) (sha256sum $pod | trunc 8) -}}
{{- end }}

{{- define "hybrid.name.secretsJob" -}}
{{- $pod := include "hybrid.secrets.pod" . -}}
{{- printf "%s-%s" (include "hybrid.name" (list . "secrets")) (sha256sum $pod | trunc 8) -}}
{{- end }}

{{- define "hybrid.taskNamespace" -}}
{{- .Values.taskPods.namespace | default .Release.Namespace -}}
{{- end }}

{{- define "hybrid.url.execution" -}}
{{- printf "http://%s.%s.svc:8080/execution/" (include "hybrid.name" (list . "api-server")) .Release.Namespace -}}
{{- end }}
