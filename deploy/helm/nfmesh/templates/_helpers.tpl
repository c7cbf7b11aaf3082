{{/* Name of the release's objects; short enough for what is appended to it. */}}
{{- define "nfmesh.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains "nfmesh" .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-nfmesh" (.Release.Name | trunc 33 | trimSuffix "-") }}
{{- end }}
{{- end }}

{{/* Name of an object of the whole cluster. */}}
{{- define "nfmesh.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "nfmesh.fullname" .) }}
{{- end }}

{{/* Labels by which pods are chosen: (list . component). They never change. */}}
{{- define "nfmesh.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: nfmesh
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object: (list . component). */}}
{{- define "nfmesh.labels" -}}
{{- $root := index . 0 -}}
{{ include "nfmesh.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of a pod: (list . component), those that a new version of the chart does not change. */}}
{{- define "nfmesh.podLabels" -}}
{{ include "nfmesh.selector" . }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "nfmesh.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- define "nfmesh.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* One map of quantities as requests and as limits: what makes a pod Guaranteed. */}}
{{- define "nfmesh.resources" -}}
requests: {{- toYaml . | nindent 2 }}
limits: {{- toYaml . | nindent 2 }}
{{- end }}

{{/* Rights of a container: (list capability ...), none by default. */}}
{{- define "nfmesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- with . }}
  add: {{ toJson . }}
  {{- end }}
{{- end }}

{{/* Rights of a pod that is no user of the node. */}}
{{- define "nfmesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 64001
runAsGroup: 64000
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Where a pod is, by the downward API. */}}
{{- define "nfmesh.podEnvironment" -}}
- {name: HOME, value: /tmp}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}

{{/* The run folder: on the node, and in containers. */}}
{{- define "nfmesh.hostRunDir" -}}
{{- printf "%s/%s/%s" (.Values.stack.runDir | trimSuffix "/") .Release.Namespace .Release.Name }}
{{- end }}
{{- define "nfmesh.runDir" -}}
{{- printf "/var/run/nfmesh/%s" .Release.Name }}
{{- end }}

{{/* Of the API group `policy`: before 1.21 there is no v1. */}}
{{- define "nfmesh.policyVersion" -}}
{{- ternary "v1" "v1beta1" (.Capabilities.APIVersions.Has "policy/v1") }}
{{- end }}

{{- define "nfmesh.priorityClass" -}}
{{- $root := index . 0 }}{{ $which := index . 1 }}
{{- $class := index $root.Values.priorityClasses $which }}
{{- if $class.name }}{{ $class.name }}
{{- else if $root.Values.priorityClasses.create }}{{ include "nfmesh.clusterName" $root }}-{{ $which }}
{{- end }}
{{- end }}

{{/* Who may read metrics, of a rule of a NetworkPolicy. */}}
{{- define "nfmesh.metricsFrom" }}
{{- with .Values.networkPolicy.metricsFrom }}
from: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
