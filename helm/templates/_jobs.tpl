{{/* The pods of Jobs: a Job's name holds a hash of its pod. */}}

{{- define "hybrid.migration.pod" -}}
{{- include "hybrid.pod" (dict
  "root" . "component" "migrate" "restartPolicy" "OnFailure" "ownLogs" true
  "args" (list "bash" "-c" "airflow db check --retry 60 --retry-delay 5 && exec airflow db migrate")
  "resources" .Values.migration.resources "pod" .Values.migration.pod
  "serviceAccount" (dict "name" (include "hybrid.name.serviceAccount" (list . "dag-processor" .Values.dagProcessor.serviceAccount)))
  "secrets" (list "hybrid.env.database" "hybrid.env.keys")
  "config" "hybrid.variables.components"
) }}
{{- end }}

{{- define "hybrid.secrets.pod" -}}
metadata:
  labels:
    {{- include "hybrid.selector" (list . "secrets") | nindent 4 }}
spec:
  serviceAccountName: {{ include "hybrid.name" (list . "secrets") }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  restartPolicy: OnFailure
  {{- include "hybrid.pod.pull" . | nindent 2 }}
  securityContext:
    {{- include "hybrid.security.pod" (list 50000 0) | nindent 4 }}
  {{- include "hybrid.pod.placement" (list . (include "hybrid.pod.settings" (list . dict) | fromYaml) "") | nindent 2 }}
  containers:
    - name: secrets
      image: {{ include "hybrid.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      securityContext:
        {{- include "hybrid.security.container" . | nindent 8 }}
      args:
        - python
        - -c
        - |
          {{- .Files.Get "files/make_secrets.py" | nindent 10 }}
        - {{ .Release.Namespace }}
        - {{ include "hybrid.name.secrets" . }}
        - {{ include "hybrid.name" (list . "postgresql") }}.{{ .Release.Namespace }}.svc
        - {{ include "hybrid.name" (list . "valkey") }}.{{ .Release.Namespace }}.svc
        - {{ .Values.airflow.simpleAuth | quote }}
      resources:
        requests: {cpu: 50m, memory: 64Mi}
{{- end }}
