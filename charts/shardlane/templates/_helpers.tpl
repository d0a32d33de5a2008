{{- define "shardlane.selector" -}}
app.kubernetes.io/name: shardlane
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "shardlane.labels" -}}
{{ include "shardlane.selector" . }}
app.kubernetes.io/part-of: shardlane
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* The reference of an image: (dict "root" $ "image" .Values.images.mover). One that is not ours says its own registry and tag. */}}
{{- define "shardlane.image" -}}
{{- $images := .root.Values.images -}}
{{- with hasKey .image "registry" | ternary .image.registry $images.registry }}{{ . }}/{{ end }}{{ .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default $images.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "shardlane.name" -}}
{{- if contains "shardlane" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-shardlane{{ end }}
{{- end }}
