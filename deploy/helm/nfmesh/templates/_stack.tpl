{{/* The ports of the stack's spec. */}}
{{- define "nfmesh.ports" -}}
{{- $port := .Values.stack.port }}
{{- $made := list }}
{{- if .Values.stack.ports }}
{{- $made = .Values.stack.ports }}
{{- else if eq $port.mode "replay" }}
{{- $pace := dict "speed" $port.replay.speed "loop" true }}
{{- $made = list (dict "pcap" $port.replay.capture "replay" $pace) }}
{{- else if eq $port.mode "dpdk" }}
{{- range $resource, $count := $port.resources }}
{{- range until (int $count) }}
{{- $made = append $made (dict "dpdk" (merge (dict "resource" $resource) $port.options)) }}
{{- end }}
{{- end }}
{{- else }}
{{- range $port.interfaces }}
{{- $made = append $made (dict $port.mode (merge (dict "interface" .) $port.options)) }}
{{- end }}
{{- end }}
{{- if and $port.pass (not .Values.stack.ports) }}
{{- if ne (len $made) 2 }}
{{- fail (printf "stack.port.pass: frames pass between two ports, and there are %d: give two, or write stack.ports" (len $made)) }}
{{- end }}
{{- $made = list (merge (dict "name" "first" "out" "second") (index $made 0)) (merge (dict "name" "second" "out" "first") (index $made 1)) }}
{{- end }}
{{- toYaml $made }}
{{- end }}

{{/* The stack's spec. */}}
{{- define "nfmesh.stackSpec" -}}
ports: {{- include "nfmesh.ports" . | nindent 2 }}
{{- if .Values.operator.enabled }}
listen:
  control: tcp://*:{{ .Values.stack.controlPort }}
  keys: /etc/nfmesh/control
{{- end }}
{{- if gt (int .Values.stack.workers) 1 }}
workers: {{ .Values.stack.workers }}
{{- end }}
{{- with .Values.stack.spec }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Capabilities that the way of the packets needs; SYS_NICE lets DPDK ask on which socket its memory is. */}}
{{- define "nfmesh.stackCapabilities" -}}
{{- $needs := dict "replay" (list) "afpacket" (list "NET_ADMIN" "NET_RAW") "afxdp" (list "BPF" "IPC_LOCK" "NET_ADMIN" "NET_RAW") "dpdk" (list "IPC_LOCK" "SYS_NICE") }}
{{- concat (get $needs .Values.stack.port.mode) .Values.stack.extraCapabilities | uniq | sortAlpha | toJson }}
{{- end }}

{{/* All that a stack container asks for. */}}
{{- define "nfmesh.stackQuantities" -}}
cpu: {{ .Values.stack.cpus | int | default .Values.stack.sharedCpu | toString | quote }}
memory: {{ .Values.stack.memory }}
{{- range $size, $amount := .Values.stack.hugepages }}
hugepages-{{ $size }}: {{ $amount }}
{{- end }}
{{- range $resource, $count := .Values.stack.port.resources }}
{{ $resource }}: {{ $count | int | quote }}
{{- end }}
{{- end }}

{{/* The annotation by which Multus attaches networks. */}}
{{- define "nfmesh.networks" -}}
{{- $root := . }}
{{- $found := list }}
{{- range .Values.stack.networks }}
{{- $name := .name }}
{{- if .nad }}{{ $name = printf "%s-%s" (include "nfmesh.fullname" $root) .name }}{{ end }}
{{- $one := dict "name" $name "namespace" (.namespace | default $root.Release.Namespace) }}
{{- with .interface }}{{ $_ := set $one "interface" . }}{{ end }}
{{- $found = append $found $one }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* Refuses what the schema cannot: values that make no sense together. */}}
{{- define "nfmesh.check" -}}
{{- with .Values.stack }}
{{- $eal := .port.options.eal | default "" }}
{{- if and (eq .port.mode "dpdk") (not .hugepages) (not (contains "--no-huge" $eal)) }}
{{- fail "stack.hugepages: DPDK needs huge pages, as `1Gi: 2Gi`; or say --no-huge in stack.port.options.eal" }}
{{- end }}
{{- if not .ports }}
{{- if and (has .port.mode (list "afpacket" "afxdp")) (not .port.interfaces) }}
{{- fail (printf "stack.port.interfaces: name the interfaces of %s, or write stack.ports" .port.mode) }}
{{- end }}
{{- if and (eq .port.mode "dpdk") (not .port.resources) }}
{{- fail "stack.port.resources: name the device plugin's resource, as `intel.com/sriov_dpdk: 1`, or write stack.ports" }}
{{- end }}
{{- end }}
{{- if and (int .cpus) (gt (int .workers) (int .cpus)) }}
{{- fail (printf "stack.workers: %d workers want as many cores, and stack.cpus is %d" (int .workers) (int .cpus)) }}
{{- end }}
{{- if eq (int .controlPort) (int .healthPort) }}
{{- fail "stack.healthPort: is stack.controlPort already" }}
{{- end }}
{{- range .networks }}
{{- if and .nad .namespace }}
{{- fail (printf "stack.networks: %s is made by the chart, in the release's namespace: leave its namespace out" .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.nfs (not .Values.operator.enabled) }}
{{- fail "nfs: nothing is made of them without the operator: set operator.enabled, or leave them out" }}
{{- end }}
{{- end }}
