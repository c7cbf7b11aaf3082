{{/* What the operator is told of this release; mesh/kube reads it. */}}
{{- define "nfmesh.operatorConfig" -}}
release: {{ .Release.Name }}
adoptUnlabelled: {{ .Values.operator.adoptUnlabelled }}
image: {{ include "nfmesh.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
imagePullSecrets: {{ toJson .Values.image.pullSecrets }}
controlSecret: {{ include "nfmesh.fullname" . }}-control
leaseName: {{ include "nfmesh.fullname" . }}-operator
log: {{ .Values.operator.log }}
stack:
  selector: {{- include "nfmesh.selector" (list . "stack") | nindent 4 }}
  controlPort: {{ .Values.stack.controlPort }}
  hostRunDir: {{ include "nfmesh.hostRunDir" . }}
  runDir: {{ include "nfmesh.runDir" . }}
budget:
  version: {{ include "nfmesh.policyVersion" . }}
  maxUnavailable: {{ ternary .Values.podDisruptionBudget.maxUnavailable 0 .Values.podDisruptionBudget.enabled }}
nf:
  healthPort: {{ .Values.nf.healthPort }}
  sharedCpu: {{ .Values.nf.sharedCpu }}
  terminationGracePeriodSeconds: {{ .Values.nf.terminationGracePeriodSeconds | default 30 }}
  seLinuxOptions: {{ toJson (default dict .Values.seLinuxOptions) }}
  user: 64001
  group: 64000
  {{- with include "nfmesh.priorityClass" (list . "nf") }}
  priorityClassName: {{ . }}
  {{- end }}
  tolerations: {{ toJson .Values.nf.tolerations }}
  nodeSelector: {{ toJson .Values.nf.nodeSelector }}
  labels: {{ toJson (merge (deepCopy .Values.nf.podLabels) .Values.commonLabels) }}
  annotations: {{ toJson .Values.nf.podAnnotations }}
{{- end }}
