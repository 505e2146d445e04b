{{/* The pod of a task. It has no address of the database and no key: it asks the Execution API with its own token. */}}

{{- define "hybrid.taskPod" -}}
{{- $settings := include "hybrid.pod.settings" (list . .Values.taskPods.pod) | fromYaml }}
apiVersion: v1
kind: Pod
metadata:
  name: task
  labels:
    {{- include "hybrid.selector" (list . "task") | nindent 4 }}
    {{- with $settings.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- merge (deepCopy ($settings.annotations | default dict)) (include "hybrid.annotations.busy" . | fromYaml) | toYaml | nindent 4 }}
spec:
  restartPolicy: Never
  {{- with .Values.taskPods.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  automountServiceAccountToken: {{ ne .Values.taskPods.serviceAccountName "" }}
  enableServiceLinks: false
  {{- include "hybrid.pod.pull" . | nindent 2 }}
  securityContext:
    {{- include "hybrid.security.pod" (list 50000 0) | nindent 4 }}
  {{- include "hybrid.pod.placement" (list . $settings "") | nindent 2 }}
  {{- if eq .Values.dags.source "git" }}
  initContainers:
    {{- include "hybrid.dags.sync" (list . true) | nindent 4 }}
  {{- end }}
  containers:
    - name: base
      image: {{ include "hybrid.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- with $settings.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      env:
        {{- range $name, $value := include "hybrid.variables.tasks" . | fromYaml }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
        {{- with $settings.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        {{- toYaml .Values.taskPods.resources | nindent 8 }}
      securityContext:
        {{- include "hybrid.security.container" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: logs, mountPath: /opt/airflow/logs}
        {{- include "hybrid.dags.mounts" . | nindent 8 }}
        {{- with $settings.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- include "hybrid.logs.volume" (list . .Values.logs.claim) | nindent 4 }}
    {{- include "hybrid.dags.volumes" . | nindent 4 }}
    {{- with $settings.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "hybrid.annotations.busy" -}}
{{- /* Who packs nodes is not to end what runs a task. */ -}}
cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
karpenter.sh/do-not-disrupt: "true"
{{- end }}
