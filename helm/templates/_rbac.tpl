{{/* Rights: the rules of workers/rbac, found by running; a test compares them. */}}

{{- define "hybrid.rules.scheduler" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [create, get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, update]
{{- end }}

{{- define "hybrid.rules.pools" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
{{- end }}

{{- define "hybrid.rules.apiServer" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end }}

{{- define "hybrid.rules.podStarter" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [create, get, list, patch, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [pods/exec]
  verbs: [create, get]
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch]
{{- end }}

{{- define "hybrid.grants" -}}
{{- /* Every Role and its binding, as a list: name, namespace, rules, component, account. */ -}}
{{- $namespaces := include "hybrid.namespaces" . | fromYaml }}
grants:
  {{- range $namespaces.tasks }}
  - name: {{ include "hybrid.name" (list $ "scheduler") }}
    namespace: {{ . }}
    component: scheduler
    account: {{ include "hybrid.name.serviceAccount" (list $ "scheduler" $.Values.scheduler.serviceAccount) }}
    rules:
      {{- include "hybrid.rules.scheduler" $ | nindent 6 }}
  - name: {{ include "hybrid.name" (list $ "api-server") }}
    namespace: {{ . }}
    component: api-server
    account: {{ include "hybrid.name.serviceAccount" (list $ "api-server" $.Values.apiServer.serviceAccount) }}
    rules:
      {{- include "hybrid.rules.apiServer" $ | nindent 6 }}
  {{- end }}
  {{- if not (has .Release.Namespace $namespaces.tasks) }}
  {{- /* No more than that where the Secrets of Airflow itself are. */}}
  - name: {{ include "hybrid.name" (list . "pools") }}
    namespace: {{ .Release.Namespace }}
    component: scheduler
    account: {{ include "hybrid.name.serviceAccount" (list . "scheduler" .Values.scheduler.serviceAccount) }}
    rules:
      {{- include "hybrid.rules.pools" . | nindent 6 }}
  {{- end }}
  {{- with .Values.workers.podStarter }}
  - name: {{ include "hybrid.name" (list $ "pod-starter") }}
    namespace: {{ . }}
    component: worker
    account: {{ include "hybrid.name.serviceAccount" (list $ "worker" $.Values.workers.serviceAccount) }}
    rules:
      {{- include "hybrid.rules.podStarter" $ | nindent 6 }}
  {{- end }}
  {{- if not .Values.secrets.name }}
  - name: {{ include "hybrid.name" (list . "secrets") }}
    namespace: {{ .Release.Namespace }}
    component: secrets
    account: {{ include "hybrid.name" (list . "secrets") }}
    rules:
      - apiGroups: [""]
        resources: [secrets]
        verbs: [create]
  {{- end }}
{{- end }}
