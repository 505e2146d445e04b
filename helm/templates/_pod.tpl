{{/* The pods of this chart: what all have in common, and each says what differs. */}}

{{- define "hybrid.image" -}}
{{- $image := .Values.image }}
{{- if $image.digest }}{{ printf "%s@%s" $image.repository $image.digest }}
{{- else }}{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "hybrid.security.pod" -}}
{{- /* (list user group) */ -}}
runAsNonRoot: true
runAsUser: {{ index . 0 }}
runAsGroup: {{ index . 1 }}
fsGroup: {{ index . 1 }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "hybrid.security.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "hybrid.pod.settings" -}}
{{- /* (list $ .Values.scheduler.pod): the chart's `pods` with what differs laid over them; lists are joined. */ -}}
{{- $common := (index . 0).Values.pods }}
{{- $own := index . 1 | default dict }}
{{- $settings := mergeOverwrite (deepCopy $common) (deepCopy $own) }}
{{- range list "env" "envFrom" "volumes" "volumeMounts" }}
{{- $_ := set $settings . (concat (get $common . | default list) (get $own . | default list)) }}
{{- end }}
{{- toYaml $settings }}
{{- end }}

{{- define "hybrid.pod.placement" -}}
{{- /* (list $ settings component): where it may run, and how its like are spread. */ -}}
{{- $settings := index . 1 }}
{{- with $settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $settings.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if $settings.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml $settings.topologySpreadConstraints | nindent 2 }}
{{- else if index . 2 }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- index $ 2 | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "hybrid.pod.pull" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "hybrid.env.secret" -}}
{{- /* (list "VARIABLE" "secret" "key") */ -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef: {name: {{ index . 1 }}, key: {{ index . 2 }}}
{{- end }}

{{- define "hybrid.env.database" -}}
{{- if .Values.embedded.postgresql.enabled }}
{{- include "hybrid.env.secret" (list "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" (include "hybrid.name.secrets" .) "connection") }}
{{- else }}
{{- include "hybrid.env.secret" (list "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" .Values.database.secret.name .Values.database.secret.key) }}
{{- end }}
{{- end }}

{{- define "hybrid.env.broker" -}}
{{- $broker := .Values.broker.secret }}
{{- $results := .Values.broker.resultSecret }}
{{- if .Values.embedded.valkey.enabled }}
{{- $broker = dict "name" (include "hybrid.name.secrets" .) "key" "broker-url" }}
{{- $results = dict "name" (include "hybrid.name.secrets" .) "key" "result-backend" }}
{{- end }}
{{- include "hybrid.env.secret" (list "AIRFLOW__CELERY__BROKER_URL" $broker.name $broker.key) }}
{{ include "hybrid.env.secret" (list "AIRFLOW__CELERY__RESULT_BACKEND" ($results.name | default $broker.name) $results.key) }}
{{- end }}

{{- define "hybrid.env.keys" -}}
{{- $secret := include "hybrid.name.secrets" . }}
{{- include "hybrid.env.secret" (list "AIRFLOW__CORE__FERNET_KEY" $secret "fernet-key") }}
{{ include "hybrid.env.secret" (list "AIRFLOW__API_AUTH__JWT_SECRET" $secret "jwt-secret") }}
{{ include "hybrid.env.secret" (list "AIRFLOW__API__SECRET_KEY" $secret "session-key") }}
{{- end }}

{{- define "hybrid.env.logs" -}}
{{- /* By it a worker knows that who asks for a log is the API server. */ -}}
{{- include "hybrid.env.secret" (list "AIRFLOW__API__SECRET_KEY" (include "hybrid.name.secrets" .) "session-key") }}
{{- end }}

{{- define "hybrid.dags.volumes" -}}
{{- if eq .Values.dags.source "volume" }}
- name: dags
  persistentVolumeClaim: {claimName: {{ .Values.dags.claim }}, readOnly: true}
{{- else if eq .Values.dags.source "git" }}
- name: dags
  emptyDir: {}
{{- end }}
{{- end }}

{{- define "hybrid.dags.mounts" -}}
{{- if eq .Values.dags.source "volume" }}
- {name: dags, mountPath: /opt/airflow/dags, readOnly: true}
{{- else if eq .Values.dags.source "git" }}
- {name: dags, mountPath: /opt/airflow/git, readOnly: true}
{{- end }}
{{- end }}

{{- define "hybrid.dags.sync" -}}
{{- /* (list $ once): git-sync, before the pod's containers or beside them. */ -}}
{{- $git := (index . 0).Values.dags.git -}}
- name: {{ ternary "git-clone" "git-sync" (index . 1) }}
  image: {{ $git.image }}
  {{- if not (index . 1) }}
  # Beside the containers for as long as they live, and not after them.
  restartPolicy: Always
  {{- end }}
  env:
    - {name: GITSYNC_REPO, value: {{ $git.repository | quote }}}
    - {name: GITSYNC_REF, value: {{ $git.ref | quote }}}
    - {name: GITSYNC_ROOT, value: /git}
    - {name: GITSYNC_LINK, value: repository}
    - {name: GITSYNC_DEPTH, value: "1"}
    {{- if index . 1 }}
    - {name: GITSYNC_ONE_TIME, value: "true"}
    {{- else }}
    - {name: GITSYNC_PERIOD, value: {{ $git.period | quote }}}
    {{- end }}
    {{- with $git.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
  securityContext:
    {{- include "hybrid.security.container" . | nindent 4 }}
  volumeMounts:
    - {name: dags, mountPath: /git}
    - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "hybrid.logs.volume" -}}
{{- /* (list $ claim) */ -}}
- name: logs
  {{- with index . 1 }}
  persistentVolumeClaim: {claimName: {{ . }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{- define "hybrid.pod" -}}
{{- /*
The pod of a component, from metadata to spec. A dict:
  root, component, args, resources, pod; serviceAccount {name, automountToken};
  optional: secrets (names of templates that give env), env, labels, annotations, ports and probes (YAML), files (the
  executor's), dags, waits (for the migration), lifecycle, grace, restartPolicy, ownLogs (with the claim for them, if
  any), passwords.
*/ -}}
{{- $root := .root }}
{{- $settings := include "hybrid.pod.settings" (list $root .pod) | fromYaml }}
{{- $selector := .selector | default (include "hybrid.selector" (list $root .component)) }}
{{- $gitSync := and .dags (eq $root.Values.dags.source "git") }}
metadata:
  labels:
    {{- $selector | nindent 4 }}
    {{- with .labels }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $settings.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := merge (deepCopy ($settings.annotations | default dict)) (.annotations | default dict) }}
  {{- if and .config (not .restartPolicy) }}
  {{- $_ := set $annotations "checksum/config" (include .config $root | sha256sum) }}
  {{- end }}
  {{- with $annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ .serviceAccount.name }}
  automountServiceAccountToken: {{ .serviceAccount.automountToken | default false }}
  enableServiceLinks: false
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  {{- with .grace }}
  terminationGracePeriodSeconds: {{ . }}
  {{- end }}
  {{- include "hybrid.pod.pull" $root | nindent 2 }}
  securityContext:
    {{- include "hybrid.security.pod" (list 50000 0) | nindent 4 }}
  {{- include "hybrid.pod.placement" (list $root $settings (ternary "" $selector (hasKey . "restartPolicy"))) | nindent 2 }}
  {{- if or .waits $gitSync .passwords }}
  initContainers:
    {{- if .passwords }}
    - name: passwords
      {{- include "hybrid.container" (dict "root" $root "settings" $settings) | nindent 6 }}
      # Airflow opens the file for writing.
      args: [bash, -c, "mkdir -p /tmp/airflow && cp /run/passwords/passwords.json /tmp/airflow/"]
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: passwords, mountPath: /run/passwords, readOnly: true}
    {{- end }}
    {{- if .waits }}
    - name: wait-for-migration
      {{- include "hybrid.container" (dict "root" $root "settings" $settings "secrets" .secrets "config" .config) | nindent 6 }}
      args: [airflow, db, check-migrations, --migration-wait-timeout, {{ $root.Values.migration.waitSeconds | quote }}]
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: logs, mountPath: /opt/airflow/logs}
    {{- end }}
    {{- if $gitSync }}
    {{- include "hybrid.dags.sync" (list $root true) | nindent 4 }}
    {{- include "hybrid.dags.sync" (list $root false) | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .container | default .component }}
      {{- include "hybrid.container" (dict "root" $root "settings" $settings "secrets" .secrets "env" .env "config" .config) | nindent 6 }}
      args:
        {{- toYaml .args | nindent 8 }}
      {{- with .ports }}
      ports:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .probes }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .lifecycle }}
      lifecycle:
        {{- . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: logs, mountPath: /opt/airflow/logs}
        {{- if .files }}
        - {name: hybrid, mountPath: /opt/airflow/hybrid, readOnly: true}
        {{- end }}
        {{- if .dags }}
        {{- include "hybrid.dags.mounts" $root | nindent 8 }}
        {{- end }}
        {{- with $settings.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- include "hybrid.logs.volume" (list $root (ternary .claim $root.Values.logs.claim (.ownLogs | default false))) | nindent 4 }}
    {{- if .passwords }}
    - name: passwords
      secret: {secretName: {{ include "hybrid.name.secrets" $root }}, items: [{key: passwords.json, path: passwords.json}]}
    {{- end }}
    {{- if .files }}
    {{- include "hybrid.files.volume" $root | nindent 4 }}
    {{- end }}
    {{- if .dags }}
    {{- include "hybrid.dags.volumes" $root | nindent 4 }}
    {{- end }}
    {{- with $settings.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "hybrid.container" -}}
image: {{ include "hybrid.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "hybrid.security.container" . | nindent 2 }}
{{- if .config }}
envFrom:
  - configMapRef: {name: {{ include "hybrid.name" (list .root (ternary "config-tasks" "config" (eq .config "hybrid.variables.tasks"))) }}}
  {{- with .settings.envFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- if or .secrets .env .settings.env }}
env:
  {{- range .secrets }}
  {{- include . $.root | nindent 2 }}
  {{- end }}
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .settings.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "hybrid.variables.tasks" -}}
{{- include "hybrid.variables" (list . "hybrid.config.tasks") }}
{{- end }}

{{- define "hybrid.variables.components" -}}
{{- include "hybrid.variables" (list . "hybrid.config.tasks" "hybrid.config.components") }}
{{- end }}

{{- define "hybrid.files.volume" -}}
{{- /* What the executor reads besides its settings: one folder, and an edit of it needs no restart. */ -}}
- name: hybrid
  projected:
    sources:
      - configMap: {name: {{ include "hybrid.name" (list . "routing") }}}
      - configMap:
          name: {{ include "hybrid.name" (list . "pod-templates") }}
          items:
            - {key: task.yaml, path: templates/task.yaml}
            {{- range $file, $_ := .Values.routing.podTemplates }}
            - {key: {{ $file }}, path: templates/{{ $file }}}
            {{- end }}
      {{- with .Values.routing.clustersSecret }}
      - secret: {name: {{ . }}}
      {{- end }}
{{- end }}

{{- define "hybrid.env.flower" -}}
{{- include "hybrid.env.secret" (list "AIRFLOW__CELERY__FLOWER_BASIC_AUTH" (include "hybrid.name.secrets" .) "flower-auth") }}
{{- end }}

{{- define "hybrid.env.worker" -}}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
# A SIGTERM is for the worker alone: it would end the tasks' processes as well (AF#18066).
- {name: DUMB_INIT_SETSID, value: "0"}
{{- end }}

{{- define "hybrid.lifecycle.worker" -}}
{{- /* Drains before the SIGTERM: takes nothing more, and waits for what runs. */ -}}
preStop:
  exec:
    command: [python, -m, hybrid_executor.worker.drain, --timeout, {{ sub .gracePeriodSeconds .drainMarginSeconds | quote }}]
{{- end }}
