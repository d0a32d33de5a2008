# shellcheck shell=bash
# Provider `local`: a real control plane and kubelet as plain processes, for Linux with root and no container engine.
#
# They run in network, mount and process namespaces of their own (local/node), so taking them down is ending one
# process: the kernel does the rest, and a run that was killed left nothing that the next one could trip over.

# shellcheck source=e2e/cluster/local/network.env
source "$CLUSTER_DIR/local/network.env"
source "$CLUSTER_DIR/local/binaries.sh"
source "$CLUSTER_DIR/kafka/jars.sh"
source "$CLUSTER_DIR/local/images.sh"

VOLUMES=60
# Where the API server notes what the operator writes, on the node.
export AUDIT_LOG=/var/log/audit.log
PACKAGES=(containerd runc containernetworking-plugins iptables iproute2 conntrack socat tini openssl buildah mmdebstrap)

provider_missing() {
  [[ $(uname -s) == Linux ]] || { say "it needs Linux"; return; }
  [[ $EUID == 0 ]] || { say "it needs root (namespaces, mounts): sudo make up"; return; }
  have apt-get || { say "it installs its parts with apt-get, which is not here"; return; }
  go version 2>/dev/null | grep -qE 'go1\.(2[4-9]|[3-9][0-9])' || say "it builds Kubernetes with Go 1.24 or newer, which is not installed (https://go.dev/dl)"
}

node_pid() {
  local pid
  pid=$(cat "$STATE/node.pid" 2>/dev/null) || return 1
  # A number in a file may be somebody else's by now.
  [[ -r /proc/$pid/cmdline ]] || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$CLUSTER_DIR/local/node $STATE" || return 1
  printf '%s' "$pid"
}

inside() { nsenter --target "$(pgrep -P "$(node_pid)")" --mount --net --pid -- "$@"; }

provider_running() { node_pid >/dev/null && kubectl get --raw /readyz >/dev/null 2>&1; }

provider_up() {
  stage "packages" install_packages "${BUILD_PACKAGES[@]}" "${PACKAGES[@]}"
  local name
  for name in kubernetes etcd coredns cloudnative-pg helm; do stage "$name $(module_version $name)" build_module $name; done
  link_binaries
  stage "kafka $(kafka_version)" kafka_jars
  stage "base image" base_image
  stage "images of others" other_images
  provider_running || stage "control plane and node" start_node
  stage "images into the node" import_others
  stage "volumes" "$CLUSTER_DIR/local/volumes" make $VOLUMES
}

start_node() {
  stop_node
  local port
  port=$(free_port)
  mkdir -p "$STATE/cni" "$STATE/volumes"
  cp "$CLUSTER_DIR/local/cni.conflist" "$STATE/cni/10-pods.conflist"
  ( make_pki "$port" )
  make_cgroups
  save_sysctls
  # No descriptor of ours goes along: a caller that waits for the end of our output must not wait for the cluster.
  setsid unshare --net --mount --pid --fork --kill-child tini -g -- \
    "$CLUSTER_DIR/local/node" "$STATE" "/$CLUSTER_ID" </dev/null >"$LOGS/node.log" 2>&1 &
  printf '%s' $! >"$STATE/node.pid"
  until_true 10 "the node's process" node_pid
  # From the folder, because a socket's path may not be long.
  ( cd "$STATE" && exec setsid socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" UNIX-CONNECT:api.sock ) \
    </dev/null >"$LOGS/api-port.log" 2>&1 &
  printf '%s' $! >"$STATE/api-port.pid"
  STOP_WAITING_UNLESS=node_pid
  until_true 60 "the API server" kubectl get --raw /readyz
  kubectl apply -f "$CLUSTER_DIR/local/base.yaml"
  until_true 60 "the node being ready" kubectl wait --for=condition=Ready "node/$NODE_NAME" --timeout=1s
  until_true 30 "the default service account" kubectl get serviceaccount default
  setsid "$CLUSTER_DIR/local/volumes" keep </dev/null >"$LOGS/volumes-kept.log" 2>&1 &
  printf '%s' $! >"$STATE/volumes.pid"
}

stop_node() {
  local pid
  if pid=$(node_pid); then
    kill -KILL "$pid"
    until_true 30 "the node's end" bash -c "! kill -0 $pid"
  fi
  if pid=$(cat "$STATE/api-port.pid" 2>/dev/null) && grep -qa api.sock "/proc/$pid/cmdline" 2>/dev/null; then kill "$pid"; fi
  # With its children, which are its group.
  if pid=$(cat "$STATE/volumes.pid" 2>/dev/null) && grep -qa local/volumes "/proc/$pid/cmdline" 2>/dev/null; then kill -- "-$pid"; fi
  rm -f "$STATE/node.pid" "$STATE/api-port.pid" "$STATE/volumes.pid"
  remove_cgroups
  restore_sysctls
  rm -rf "$STATE/var-lib" "$STATE/pki" "$STATE/volumes"
}

# Under a root of ours, so that they are told from anybody else's.
cgroup_roots() {
  if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then printf '/sys/fs/cgroup/%s\n' "$CLUSTER_ID"
  else awk '$3 ~ /^cgroup2?$/ {print $2 "/'"$CLUSTER_ID"'"}' /proc/mounts; fi
}

make_cgroups() {
  local dir
  while read -r dir; do
    mkdir -p "$dir"
    # A new group of version 1's cpuset is empty, and nothing can run in it.
    if [[ -f $dir/cpuset.cpus ]]; then
      cat "$dir/../cpuset.cpus" >"$dir/cpuset.cpus"
      cat "$dir/../cpuset.mems" >"$dir/cpuset.mems"
    fi
  done < <(cgroup_roots)
}

remove_cgroups() {
  local dir
  while read -r dir; do
    [[ -d $dir ]] || continue
    until_true 20 "the last process leaving $dir" find "$dir" -depth -type d -exec rmdir {} +
  done < <(cgroup_roots)
}

# What the kubelet sets on the whole machine is put back at the end.
KUBELET_SYSCTLS="vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"
save_sysctls() {
  local name
  for name in $KUBELET_SYSCTLS; do printf '%s=%s\n' "$name" "$(sysctl -n "$name")"; done >"$STATE/sysctls"
}
restore_sysctls() {
  [[ -f $STATE/sysctls ]] || return 0
  xargs sysctl -qw <"$STATE/sysctls"
  rm -f "$STATE/sysctls"
}

provider_down() {
  stop_node
  rm -rf "$STATE"
}

provider_programs() {
  local name
  cargo build --profile "$SHARDLANE_PROFILE" --locked "$@"
  PROGRAMS_FROM="$STATE/stripped"
  mkdir -p "$PROGRAMS_FROM"
  # Most of a debug build is what a debugger reads, which no image needs.
  for name in "${PROGRAMS[@]}"; do strip --strip-debug -o "$PROGRAMS_FROM/$name" "$CARGO_TARGET/$(profile_folder)/$name"; done
}

# Runs a command where the node's processes and addresses are.
provider_node() { inside "$@"; }

provider_status() {
  if node_pid >/dev/null; then say "node: process $(node_pid)"; else say "node: not running"; fi
}
