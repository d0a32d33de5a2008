# shellcheck shell=bash
# The steps from nothing to a service that answers, the same for every provider.
#
# A provider supplies: provider_missing, provider_running, provider_up, provider_programs, provider_images,
# provider_cloudnative_pg, provider_node, provider_down, provider_status, and the names KAFKA_IMAGE and POSTGRES_IMAGE.

source "$CLUSTER_DIR/pki.sh"

# What our own programs are built with, and what the scripts use.
BUILD_PACKAGES=(build-essential pkg-config libssl-dev zlib1g-dev curl git python3-minimal)

# install_packages NAME...: where there is apt; elsewhere its user knows better how.
install_packages() {
  local missing=() name
  have apt-get || return 0
  for name in "$@"; do dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name"); done
  [[ ${#missing[@]} == 0 ]] && return
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

pick_provider() {
  if [[ -n ${PROVIDER:-} ]]; then printf '%s' "$PROVIDER"
  elif [[ -f $STATE/provider ]]; then cat "$STATE/provider"
  elif docker info >/dev/null 2>&1 || podman info >/dev/null 2>&1; then printf 'kind'
  else printf 'local'; fi
}

load_provider() {
  local provider
  provider=$(pick_provider)
  [[ -f $CLUSTER_DIR/providers/$provider.sh ]] || fail "PROVIDER=$provider is not one of: kind, local"
  # shellcheck disable=SC1090
  source "$CLUSTER_DIR/providers/$provider.sh"
  export PATH="$STATE/bin:$PATH"
}

require_provider() {
  local missing
  missing=$(provider_missing)
  [[ -z $missing ]] || fail "no cluster can be made here with the provider '$(pick_provider)': $missing.
Either install Docker or Podman, and kind (any system); or be root on Debian 12 (no engine needed)."
  have cargo || fail "cargo is missing: install Rust, as https://rustup.rs says"
  mkdir -p "$STATE" "$LOGS"
  # Not straight into the file: it is where the choice is looked up.
  printf '%s' "$(pick_provider)" >"$STATE/provider.new"
  mv "$STATE/provider.new" "$STATE/provider"
}

cluster_up() {
  load_provider
  require_provider
  say "${BOLD}Bringing Shardlane up${PLAIN} (provider $(cat "$STATE/provider"); logs in target/cluster/log)"
  provider_up
  stage "our programs" build_programs
  stage "our images" provider_images
  stage "CloudNativePG" install_cloudnative_pg
  stage "Kafka" install_kafka
  stage "Postgres" install_postgres
  stage "operator" install_operator
}

# What `up` shows besides: a service, and that it works.
cluster_demo() {
  stage "sample: 3 partitions" install_sample
  say
  show_sign_ups
  say
  say "Everything is up after $(elapsed $((SECONDS - STARTED))). Go on with:"
  say "  export KUBECONFIG=$KUBECONFIG PATH=$STATE/bin:\$PATH"
  say "  kubectl get signupshards,pods"
  say "  kubectl port-forward service/demo-gateway 8080:80 &"
  say "  curl -i localhost:8080/api/v1/signups -d '{\"username\": \"yours\"}'"
  say "  make test        # everything, on this cluster"
  say "  make down        # and nothing is left"
}

PROGRAMS=(shardlane-operator mover signup signup-ctl kubectl-shardlane)
IMAGES=(operator mover signup)

build_programs() {
  provider_programs -p shardlane-operator -p shardlane-mover -p shardlane-signup -p kubectl-shardlane
  mkdir -p "$STATE/programs"
  local name
  for name in "${PROGRAMS[@]}"; do cp "$PROGRAMS_FROM/$name" "$STATE/programs/"; done
}

# Names our images by what is in them, so that a cluster runs what was built, and nothing restarts that did not change.
image_tag() { hash_of "$STATE/programs" "$ROOT/Dockerfile"; }

install_cloudnative_pg() {
  provider_cloudnative_pg | kubectl apply --server-side --force-conflicts -f -
  kubectl -n cnpg-system rollout status deployment/cnpg-controller-manager --timeout=180s
  # Its webhooks answer a little later than it says.
  until_true 60 "CloudNativePG's webhooks" ask_cloudnative_pg
}

ask_cloudnative_pg() {
  kubectl create --dry-run=server -f - <<'EOF'
{"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": "probe", "namespace": "default"},
 "spec": {"instances": 1, "storage": {"size": "1Gi"}}}
EOF
}

# Which Kafka services use: Strimzi's where the provider can install it, or where E2E_KAFKA=strimzi says that it is there.
on_strimzi() { [[ ${E2E_KAFKA:-${PROVIDER_KAFKA:-}} == strimzi ]]; }

install_kafka() {
  if on_strimzi; then install_strimzi; else install_broker; fi
}

install_strimzi() {
  if [[ -n ${STRIMZI_MANIFEST:-} ]]; then
    # Made for a namespace of its own choice; ours is the services'.
    curl -fsSL "$STRIMZI_MANIFEST" | sed 's#namespace: myproject#namespace: default#' | kubectl apply --server-side -n default -f -
    kubectl -n default rollout status deployment/strimzi-cluster-operator --timeout=300s
    kubectl apply -f "$CLUSTER_DIR/strimzi/kafka.yaml"
  else
    kubectl -n default get kafkas.kafka.strimzi.io kafka ||
      fail "E2E_KAFKA=strimzi, and there is no Kafka 'kafka' in the namespace default: install Strimzi, and apply $CLUSTER_DIR/strimzi/kafka.yaml"
  fi
  kubectl -n default wait kafkas.kafka.strimzi.io/kafka --for=condition=Ready --timeout=600s
}

install_broker() {
  kubectl create namespace kafka --dry-run=client -o yaml | kubectl apply -f -
  kubectl -n kafka get secret kafka-tls || make_kafka_secrets
  sed "s#@KAFKA_IMAGE@#$KAFKA_IMAGE#" "$CLUSTER_DIR/kafka/kafka.yaml" | kubectl apply -f -
  kubectl -n kafka rollout status statefulset/kafka --timeout=180s
}

# The broker's certificate, and what its clients need: who they are, and whom they may trust.
make_kafka_secrets() {
  local folder=$STATE/kafka-pki
  mkdir -p "$folder"
  ( cd "$folder" && authority && certificate broker /CN=broker DNS:kafka.kafka && cat broker.key broker.crt >broker.pem )
  kubectl -n kafka create secret generic kafka-ca --from-file="$folder/ca.crt"
  kubectl -n kafka create secret generic kafka-demo --from-literal=username=demo --from-literal=password="$(openssl rand -hex 16)"
  kubectl -n kafka create secret generic kafka-tls --from-file="$folder/broker.pem"
}

install_postgres() {
  sed "s#@POSTGRES_IMAGE@#$POSTGRES_IMAGE#" "$CLUSTER_DIR/postgres/postgres.yaml" | kubectl apply -f -
  kubectl -n postgres rollout status statefulset/postgres --timeout=180s
}

install_operator() {
  helm upgrade --install shardlane-crds charts/shardlane-crds --namespace shardlane-system --create-namespace --wait
  helm upgrade --install shardlane charts/shardlane --namespace shardlane-system --wait --timeout 3m \
    --set images.tag="$(image_tag)"
}

install_sample() {
  # The workers run what was just built, and the shards the image that is at hand.
  kubectl create --dry-run=client -o json -f docs/samples/signupshard.yaml |
    python3 -c 'import json, sys
sample = json.load(sys.stdin)
sample["spec"]["worker"] = {"image": sys.argv[1]}
if sys.argv[2]: sample["spec"]["postgres"]["cloudNativePG"]["imageName"] = sys.argv[2]
if sys.argv[3]: sample["spec"]["kafka"] = {"strimzi": {"cluster": "kafka"}}
json.dump(sample, sys.stdout)' "docker.io/shardlane/signup:$(image_tag)" "$POSTGRES_IMAGE" "$(on_strimzi && printf yes)" | kubectl apply -f -
  kubectl wait --for=condition=Ready signupshard/demo --timeout=300s
}

show_sign_ups() {
  local log="$LOGS/port-forward.log" pid port name code
  kubectl port-forward service/demo-gateway :80 >"$log" 2>&1 </dev/null &
  pid=$!
  # shellcheck disable=SC2064
  trap "kill $pid 2>/dev/null" EXIT
  until_true 20 "the gateway's port" grep -q 'Forwarding from 127' "$log"
  port=$(sed -nE 's/.*127\.0\.0\.1:([0-9]+) .*/\1/p' "$log" | head -n 1)
  say "Signing up through the gateway (POST /api/v1/signups):"
  for name in ada grace barbara ada; do
    code=$(curl -sS -o "$STATE/answer" -w '%{http_code}' -d "{\"username\": \"$name\"}" "http://127.0.0.1:$port/api/v1/signups")
    case $code in
      201) say "  $name: 201, the name is yours" ;;
      409) say "  $name: 409, the name is taken" ;;
      *) say "  $name: $code $(cat "$STATE/answer")" ;;
    esac
  done
  kill "$pid"
  trap - EXIT
  say "Where they are:"
  kubectl get signupshard demo -o go-template='{{range .status.partitions}}{{printf "  partition %d  worker %s  shard %s  slots %s\n" .partition .worker .shard .slots}}{{end}}'
}

cluster_down() { load_provider; provider_down; say "The cluster is gone."; }

cluster_status() {
  load_provider
  provider_status
  provider_running || { say "The API server does not answer. 'make up' brings everything up."; return 1; }
  kubectl get nodes
  kubectl get signupshards -A
  kubectl get pods -A
}
