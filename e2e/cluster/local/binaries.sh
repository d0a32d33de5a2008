# shellcheck shell=bash
# Kubernetes and its friends as Go modules, built once for each version into the cache.
# The versions are the go.mod files' under tools/; their hashes are the cache's keys.

declare -gA BINARIES=(
  [kubernetes]="kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl"
  [etcd]="etcd"
  [helm]="helm"
  [coredns]="coredns"
  [cloudnative-pg]="manager"
)
declare -gA MODULES=(
  [kubernetes]=k8s.io/kubernetes
  [etcd]=go.etcd.io/etcd/server/v3
  [helm]=helm.sh/helm/v3
  [coredns]=github.com/coredns/coredns
  [cloudnative-pg]=github.com/cloudnative-pg/cloudnative-pg
)

module_key() { hash_of "$CLUSTER_DIR/tools/$1"; }
module_bin() { printf '%s/bin/%s-%s' "$CACHE" "$1" "$(module_key "$1")"; }
module_version() { awk -v module="${MODULES[$1]}" '{ for (i = 1; i < NF; i++) if ($i == module) { print $(i + 1); exit } }' "$CLUSTER_DIR/tools/$1/go.mod"; }

# build_module NAME: leaves its binaries in the cache, whole or not at all.
build_module() {
  local name=$1 bin version flags="-s -w"
  bin="$(module_bin "$name")"
  [[ -d $bin ]] && return
  mkdir -p "$bin.new"
  if [[ $name == kubernetes ]]; then
    # kubectl refuses a server that does not know its version.
    version="$(module_version kubernetes)"
    local v=k8s.io/component-base/version minor=${version#v1.}
    flags+=" -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*} -X $v.gitTreeState=clean"
  fi
  ( cd "$CLUSTER_DIR/tools/$name" && GOFLAGS='' CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$bin.new/" tool )
  # `go build` names a binary after its package, which for etcd is "server".
  [[ $name == etcd ]] && mv "$bin.new/server" "$bin.new/etcd"
  mv "$bin.new" "$bin"
}

# One folder with everything, for PATH.
link_binaries() {
  local name tool
  mkdir -p "$STATE/bin"
  for name in "${!BINARIES[@]}"; do
    for tool in ${BINARIES[$name]}; do ln -sfn "$(module_bin "$name")/$tool" "$STATE/bin/$tool"; done
  done
}
