{{- define "gatepass.name" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- .Values.fullnameOverride | default $name | trunc 56 | trimSuffix "-" -}}
{{- end -}}

{{- define "gatepass.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gatepass.labels" -}}
{{ include "gatepass.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "gatepass.valkeySelector" -}}
app.kubernetes.io/name: valkey
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gatepass.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "gatepass.name" .) "default") -}}
{{- end -}}

{{- define "gatepass.configMap" -}}
{{- .Values.config | empty | ternary (.Values.existingConfigMap | default (include "gatepass.name" .)) (include "gatepass.name" .) -}}
{{- end -}}

{{- define "gatepass.secret" -}}
{{- .Values.secrets | empty | ternary (.Values.existingSecret | default (include "gatepass.name" .)) (include "gatepass.name" .) -}}
{{- end -}}

{{- /* gatepass.yaml: `config` with what other values set. What `config` sets itself wins. */ -}}
{{- define "gatepass.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := dict "drain_delay_s" .Values.drain.delaySeconds "drain_timeout_s" .Values.drain.timeoutSeconds -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $server "tls" (dict "cert_file" "/run/secrets/tls/tls.crt" "key_file" "/run/secrets/tls/tls.key") -}}
{{- end -}}
{{- $_ := set $config "server" (mergeOverwrite $server ($config.server | default dict)) -}}
{{- if and .Values.valkey.enabled (not $config.store) -}}
{{- $store := dict "url" (printf "valkey://%s-valkey:6379/0" (include "gatepass.name" .)) "username" "gatepass" "allow_plain_tcp" true -}}
{{- $_ := set $store "encryption_key" "${file:/run/secrets/gatepass/store_key}" -}}
{{- $_ := set $store "password" "${file:/run/secrets/gatepass/store_password}" -}}
{{- $_ := set $config "store" $store -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "gatepass.bytes" -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "k" 1000 "M" 1000000 "G" 1000000000 -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[A-Za-z]+$" .)) | int64 -}}
{{- end -}}

{{- /* `limits.connections`. Fails if the limits do not fit by docs/operations/limits_and_memory.md#memory. */ -}}
{{- define "gatepass.connections" -}}
{{- $limits := .Values.config.limits | default dict -}}
{{- $memory := include "gatepass.bytes" .Values.resources.limits.memory | float64 -}}
{{- $connections := $limits.connections | default (divf (mulf $memory 400) 536870912 | floor) -}}
{{- $held := $limits.held_bytes | default (divf $memory 2) -}}
{{- $body := $limits.body_bytes | default 33554432 -}}
{{- $reply := $limits.reply_bytes | default 67108864 -}}
{{- $needed := addf 83886080 (mulf $held 1.125) $body $reply (mulf $connections 103936) -}}
{{- if gt $needed $memory -}}
{{- $text := "resources.limits.memory gives gatepass %.0f MiB, and its limits need %.0f MiB. Raise it, or set a lower config.limits.held_bytes, body_bytes, reply_bytes or connections: docs/operations/limits_and_memory.md#memory" -}}
{{- fail (printf $text (divf $memory 1048576) (divf $needed 1048576)) -}}
{{- end -}}
{{- $connections | int -}}
{{- end -}}

{{- define "gatepass.env" -}}
{{- $env := dict "GATEPASS_CONFIG" "/etc/gatepass/gatepass.yaml" "GATEPASS_HOST" "0.0.0.0" "GATEPASS_PORT" "8080" -}}
{{- if (.Values.resources.limits | default dict).memory -}}
{{- $_ := set $env "GATEPASS_LIMITS_CONNECTIONS" (include "gatepass.connections" .) -}}
{{- end -}}
{{- if or .Values.ca.pem .Values.ca.existingConfigMap }}{{ $_ := set $env "GATEPASS_CA_FILE" "/etc/gatepass-ca/ca.pem" }}{{ end -}}
{{- with .Values.proxy.url }}{{ $_ := set $env "GATEPASS_PROXY" . }}{{ end -}}
{{- with .Values.proxy.noProxy }}{{ $_ := set $env "GATEPASS_NO_PROXY" (join "," .) }}{{ end -}}
{{- range $name, $value := merge (deepCopy .Values.env) $env }}
- name: {{ $name | quote }}
  {{- if kindIs "map" $value }}
  valueFrom: {{- toYaml $value | nindent 4 }}
  {{- else }}
  value: {{ and (kindIs "float64" $value) (eq (toString (floor $value)) (toString $value)) | ternary (int64 $value) $value | toString | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* The ports of the URLs of `config` and of the proxy, and 443. No URL of `access`, `profiles` and `server` is a hop. */ -}}
{{- define "gatepass.ports" -}}
{{- $defaults := dict "http" "80" "https" "443" "valkey" "6379" "valkeys" "6379" "redis" "6379" "rediss" "6379" -}}
{{- $texts := omit .Values.config "access" "profiles" "server" | toYaml | printf "%s %s" .Values.proxy.url -}}
{{- $ports := list "443" -}}
{{- range regexFindAll "\\b(https?|valkeys?|rediss?)://[^/?\\s\"']+" $texts -1 -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default (get $defaults (splitList ":" . | first))) -}}
{{- end -}}
{{- $ports | uniq | sortAlpha | join " " -}}
{{- end -}}

{{- define "gatepass.scheme" -}}
{{- (include "gatepass.config" . | fromYaml).server.tls | empty | ternary "http" "https" -}}
{{- end -}}

{{- define "gatepass.probe" -}}
httpGet: {path: {{ .path }}, port: http, scheme: {{ include "gatepass.scheme" .root | upper }}}
{{ toYaml .settings }}
{{- end -}}
