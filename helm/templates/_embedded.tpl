{{/* Servers for a trial: one pod each, its data in the pod. */}}

{{- define "hybrid.embedded.deployment" -}}
{{- /* A dict: root, component, values, user, port, command, env, mounts (name → path). */ -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "hybrid.metadata" (list $root (include "hybrid.name" (list $root .component)) .component) | nindent 2 }}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector:
    matchLabels:
      {{- include "hybrid.selector" (list $root .component) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "hybrid.selector" (list $root .component) | nindent 8 }}
      annotations:
        {{- include "hybrid.annotations.busy" $root | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- include "hybrid.pod.pull" $root | nindent 6 }}
      securityContext:
        {{- include "hybrid.security.pod" (list .user .user) | nindent 8 }}
      {{- include "hybrid.pod.placement" (list $root (include "hybrid.pod.settings" (list $root dict) | fromYaml) "") | nindent 6 }}
      containers:
        - name: {{ .component }}
          image: {{ .values.image }}
          {{- with .command }}
          command:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          env:
            {{- .env | nindent 12 }}
          ports:
            - {name: server, containerPort: {{ .port }}}
          startupProbe:
            tcpSocket: {port: server}
            periodSeconds: 2
            failureThreshold: 90
          readinessProbe:
            tcpSocket: {port: server}
          securityContext:
            {{- include "hybrid.security.container" . | nindent 12 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            {{- range $name, $path := .mounts }}
            - {name: {{ $name }}, mountPath: {{ $path }}}
            {{- end }}
      volumes:
        {{- range $name, $_ := .mounts }}
        - name: {{ $name }}
          emptyDir: {}
        {{- end }}
{{- end }}

{{- define "hybrid.embedded.postgresql.env" -}}
- {name: POSTGRES_USER, value: airflow}
- {name: POSTGRES_DB, value: airflow}
- {name: PGDATA, value: /var/lib/postgresql/data}
{{ include "hybrid.env.secret" (list "POSTGRES_PASSWORD" (include "hybrid.name.secrets" .) "postgres-password") }}
{{- end }}
