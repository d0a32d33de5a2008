# shellcheck shell=bash
# Provider `kind`: a cluster in a container, for machines where a container engine answers. Images come from their
# projects' registries, but for ours, which are built and loaded.

# Unless E2E_KAFKA names something else than Strimzi.
KAFKA_IMAGE="docker.io/apache/kafka:4.1.0"
POSTGRES_IMAGE="ghcr.io/cloudnative-pg/postgresql:15"
REDIS_IMAGE="docker.io/library/redis:8"
CLOUDNATIVE_PG_MANIFEST="https://raw.githubusercontent.com/cloudnative-pg/cloudnative-pg/release-1.27/releases/cnpg-1.27.0.yaml"
PROVIDER_KAFKA=strimzi
STRIMZI_MANIFEST="https://github.com/strimzi/strimzi-kafka-operator/releases/download/1.2.0/strimzi-cluster-operator-1.2.0.yaml"
KIND_NAME="$CLUSTER_ID"
# Programs are built where their C library is the images' own.
BUILDER_IMAGE="docker.io/library/rust:1-bookworm"

engine() { if docker info >/dev/null 2>&1; then printf 'docker'; elif podman info >/dev/null 2>&1; then printf 'podman'; fi; }

provider_missing() {
  local name
  [[ -n $(engine) ]] || { say "no container engine answers (docker info, podman info)"; return; }
  for name in kind kubectl helm; do have "$name" || { say "the program $name is not installed"; return; }; done
}

kind_with_engine() { KIND_EXPERIMENTAL_PROVIDER="$(engine)" kind "$@"; }

provider_running() { kind_with_engine get clusters 2>/dev/null | grep -qx "$KIND_NAME" && kubectl get --raw /readyz >/dev/null 2>&1; }

provider_up() {
  provider_running || stage "kind cluster" start_kind
}

start_kind() {
  kind_with_engine create cluster --name "$KIND_NAME" --config "$ROOT/kind-config.yaml" --kubeconfig "$KUBECONFIG" --wait 180s
}

# Our programs, built elsewhere than the host's, whose C library may be newer. No image needs what a debugger reads.
provider_programs() {
  mkdir -p "$ROOT/target/builder"
  "$(engine)" run --rm --user "$(id -u):$(id -g)" -v "$ROOT:/source" -w /source -e CARGO_HOME=/source/target/builder/cargo \
    -e CARGO_TARGET_DIR=/source/target/builder -e CARGO_PROFILE_DEV_STRIP=debuginfo "$BUILDER_IMAGE" cargo build --profile "$SHARDLANE_PROFILE" --locked "$@"
  PROGRAMS_FROM="$ROOT/target/builder/$(profile_folder)"
}

provider_images() {
  local name tag
  tag=$(image_tag)
  for name in "${IMAGES[@]}"; do
    "$(engine)" build --tag "docker.io/shardlane/$name:$tag" --file "$ROOT/Dockerfile" --target "$name" "$STATE/programs"
    kind_with_engine load docker-image "docker.io/shardlane/$name:$tag" --name "$KIND_NAME"
  done
}

provider_cloudnative_pg() { curl -fsSL "$CLOUDNATIVE_PG_MANIFEST"; }

provider_node() { "$(engine)" exec "$KIND_NAME-control-plane" "$@"; }

provider_status() { kind_with_engine get nodes --name "$KIND_NAME" || say "kind: no cluster of the name $KIND_NAME"; }

provider_down() {
  kind_with_engine delete cluster --name "$KIND_NAME" --kubeconfig "$KUBECONFIG"
  rm -rf "$STATE"
}
