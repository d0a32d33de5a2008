# shellcheck shell=bash
# Certificates and kubeconfigs of a cluster and its broker, which live as long as their folder.

# certificate NAME SUBJECT [ALTERNATIVE NAMES]
certificate() {
  local name=$1 subject=$2 names=${3:-}
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$name.key" -subj "$subject" -out "$name.csr"
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out "$name.crt" \
    -extfile <(printf 'keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n%s' "${names:+subjectAltName=$names}")
}

# kubeconfig FILE SERVER NAME: for whom NAME's certificate stands.
kubeconfig() {
  local file=$1 server=$2 name=$3
  cat >"$file" <<EOF
apiVersion: v1
kind: Config
current-context: shardlane
contexts: [{ name: shardlane, context: { cluster: shardlane, user: $name } }]
clusters: [{ name: shardlane, cluster: { server: "$server", certificate-authority-data: $(base64 -w0 ca.crt) } }]
users: [{ name: $name, user: { client-certificate-data: $(base64 -w0 "$name.crt"), client-key-data: $(base64 -w0 "$name.key") } }]
EOF
  chmod 600 "$file"
}

# authority: the certificate that all others are signed with.
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=shardlane-ca -keyout ca.key -out ca.crt \
    -addext keyUsage=critical,keyCertSign,cRLSign
}

# make_pki PORT: PORT is where the API server will be found on the loopback outside.
make_pki() {
  local port=$1 name
  mkdir -p "$STATE/pki"
  cd "$STATE/pki"
  authority
  openssl genrsa -out service-account.key 2048
  openssl rsa -in service-account.key -pubout -out service-account.pub
  certificate apiserver /CN=kube-apiserver \
    "IP:127.0.0.1,IP:$NODE_IP,IP:$KUBERNETES_IP,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate admin "/O=system:masters/CN=admin"
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE_NAME"
  certificate coredns /CN=coredns
  for name in kube-controller-manager kube-scheduler kube-proxy; do certificate $name "/CN=system:$name"; done
  for name in kubelet coredns kube-controller-manager kube-scheduler kube-proxy; do
    kubeconfig "$name.kubeconfig" "https://$NODE_IP:6443" $name
  done
  kubeconfig "$STATE/kubeconfig" "https://127.0.0.1:$port" admin
  chmod 600 ./*.key
}
