# shellcheck shell=bash
# The steps from nothing to a service that answers, the same for every provider.
#
# A provider supplies: provider_missing, provider_running, provider_up, provider_programs, provider_images,
# provider_cloudnative_pg, provider_node, provider_down, provider_status, and the names KAFKA_IMAGE, POSTGRES_IMAGE and REDIS_IMAGE.

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

# What `up` shows besides: a service of each kind, and that they work.
cluster_demo() {
  stage "samples" install_samples
  say
  through_gateway demo show_sign_ups
  say
  through_gateway bank show_transfers
  say
  through_gateway hits show_counters
  say
  through_gateway journal show_posts
  say
  say "Everything is up after $(elapsed $((SECONDS - STARTED))). Go on with:"
  say "  export KUBECONFIG=$KUBECONFIG PATH=$STATE/bin:\$PATH"
  say "  kubectl get shardlane,pods"
  say "  kubectl port-forward service/demo-gateway 8080:80 &"
  say "  curl -i localhost:8080/api/v1/signups -d '{\"username\": \"yours\"}'"
  say "  $STATE/programs/kubectl-shardlane transfer bank --from Alice --to Bob --amount 0.50"
  say "  make test        # everything, on this cluster"
  say "  make down        # and nothing is left"
}

PROGRAMS=(shardlane-operator mover signup signup-ctl wallet counter blog kubectl-shardlane)
IMAGES=(operator mover signup wallet counter blog)

# How our own programs are built, as cargo calls it.
SHARDLANE_PROFILE=${SHARDLANE_PROFILE:-release}

profile_folder() { if [[ $SHARDLANE_PROFILE == dev ]]; then printf 'debug'; else printf '%s' "$SHARDLANE_PROFILE"; fi; }

build_programs() {
  local which=(-p shardlane-operator -p shardlane-mover -p shardlane-signup -p shardlane-wallet -p shardlane-counter
    -p shardlane-blog -p kubectl-shardlane)
  # With the features of everything together, as the tests before have built most of it.
  [[ $SHARDLANE_PROFILE != dev ]] || which=(--workspace --bins)
  provider_programs "${which[@]}"
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
    --set images.tag="$(image_tag)" --set images.redis.registry="${REDIS_IMAGE%%/*}" \
    --set images.redis.repository="$(redis_repository)" --set images.redis.tag="${REDIS_IMAGE##*:}"
}

# What stands between its registry and its tag.
redis_repository() { local name=${REDIS_IMAGE#*/}; printf '%s' "${name%:*}"; }

install_samples() {
  apply_sample signupshard signup
  apply_sample walletpartition wallet
  apply_sample counterpool counter
  apply_sample blogpipeline blog
  kubectl wait --for=condition=Ready signupshard/demo walletpartition/bank counterpool/hits blogpipeline/journal --timeout=480s
}

# apply_sample KIND IMAGE: the kind's sample, whose workers run what was just built, and whose shards the image that is at hand.
apply_sample() {
  kubectl create --dry-run=client -o json -f "docs/samples/$1.yaml" |
    python3 -c 'import json, sys
sample = json.load(sys.stdin)
sample["spec"]["worker"] = {"image": sys.argv[1]}
if sys.argv[2]: sample["spec"]["postgres"]["cloudNativePG"]["imageName"] = sys.argv[2]
if sys.argv[3]: sample["spec"]["kafka"] = {"strimzi": {"cluster": "kafka"}}
json.dump(sample, sys.stdout)' "docker.io/shardlane/$2:$(image_tag)" "$POSTGRES_IMAGE" "$(on_strimzi && printf yes)" | kubectl apply -f -
}

# through_gateway SERVICE COMMAND...: runs a function that asks the service's gateway.
through_gateway() {
  local log="$LOGS/port-forward-$1.log" pid
  kubectl port-forward "service/$1-gateway" :80 >"$log" 2>&1 </dev/null &
  pid=$!
  shift
  # shellcheck disable=SC2064
  trap "kill $pid 2>/dev/null" EXIT
  until_true 20 "the gateway's port" grep -q 'Forwarding from 127' "$log"
  GATEWAY=http://127.0.0.1:$(sed -nE 's/.*127\.0\.0\.1:([0-9]+) .*/\1/p' "$log" | head -n 1)
  "$@"
  kill "$pid"
  trap - EXIT
}

# ask PATH [BODY]: of the gateway, by POST if there is a body, which is JSON. Its status is in CODE, and the rest in two files.
ask() {
  CODE=$(curl -sS -o "$STATE/answer" -D "$STATE/headers" -w '%{http_code}' -H 'accept: application/json' \
    ${2:+-H 'content-type: application/json' -d "$2"} "$GATEWAY$1")
}

# answered FIELD: what the gateway last said of it.
answered() { python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1]))' "$1" <"$STATE/answer"; }

show_sign_ups() {
  local name
  say "Signing up through the gateway (POST /api/v1/signups):"
  for name in ada grace barbara ada; do
    ask /api/v1/signups "{\"username\": \"$name\"}"
    case $CODE in
      201) say "  $name: 201, the name is yours" ;;
      409) say "  $name: 409, the name is taken" ;;
      *) say "  $name: $CODE $(cat "$STATE/answer")" ;;
    esac
  done
  show_partitions signupshard/demo
}

show_transfers() {
  local id
  id="demo-$(date +%s)"
  say "Paying through the gateway (POST /api/v1/deposits, POST /api/v1/transfers):"
  ask /api/v1/deposits "{\"account\": \"Alice\", \"amount\": \"10.00\", \"request_id\": \"$id-deposit\"}"
  said "Alice is given 10.00" 201
  ask /api/v1/transfers "{\"from\": \"Alice\", \"to\": \"Bob\", \"amount\": \"0.50\", \"request_id\": \"$id\"}"
  said "Alice sends 0.50 to Bob" 201
  until_true 20 "the end of the transfer $id" is_decided "$id"
  say "  the transfer is $(answered state)"
  ask /api/v1/accounts/Alice
  say "  Alice has $(answered balance)"
  ask /api/v1/accounts/Bob
  say "  Bob has $(answered balance)"
  until_true 60 "an audit" has_audit
  say "  the audit holds: $(answered holds)"
  show_partitions walletpartition/bank
}

show_counters() {
  local key value
  key=$(python3 -c 'import uuid; print(uuid.uuid4())')
  say "Counting through the gateway (POST /increment):"
  for value in 1 2 39; do
    ask /increment "{\"key\": \"$key\", \"value\": $value}"
    said "$key + $value" 200
  done
  until_true 20 "the sum of the counter $key" is_counted "$key" 42
  say "  the counter has $(answered value)"
  show_partitions counterpool/hits
}

is_counted() { ask "/counters/$1" && [[ $CODE == 200 && $(answered value) == "$2" ]]; }

show_posts() {
  local path
  say "Posting through the gateway (POST /post):"
  ask /post '{"title": "Hello, world", "content": "The first of many."}'
  said "a post" 201
  # With or without the gateway's own address before it.
  path=$(sed -nE 's#^[Ll]ocation: *(https?://[^/]*)?(/[^[:space:]]*).*#\2#p' "$STATE/headers")
  [[ -n $path ]] || fail "the gateway did not say where the post will be: $(cat "$STATE/headers")"
  until_true 20 "the post at $path" is_published "$path"
  say "  $path is published: $(answered title)"
  show_partitions blogpipeline/journal
}

is_published() { ask "$1" && [[ $CODE == 200 && $(answered title) != None ]]; }

# said WHAT CODE: what came of it, with the gateway's own words if they are not what is expected.
said() { if [[ $CODE == "$2" ]]; then say "  $1: $CODE"; else say "  $1: $CODE $(cat "$STATE/answer")"; fi; }

is_decided() { ask "/api/v1/transfers/$1?from=Alice" && [[ $CODE == 200 && $(answered state) != pending ]]; }

has_audit() { ask /api/v1/audit && [[ $CODE == 200 && $(answered audit) != None ]]; }

show_partitions() {
  say "Where they are:"
  kubectl get "$1" -o go-template='{{range .status.partitions}}{{printf "  partition %d  worker %s  shard %s  slots %s\n" .partition .worker .shard .slots}}{{end}}'
}

cluster_down() { load_provider; provider_down; say "The cluster is gone."; }

cluster_status() {
  load_provider
  provider_status
  provider_running || { say "The API server does not answer. 'make up' brings everything up."; return 1; }
  kubectl get nodes
  kubectl get shardlane -A
  kubectl get pods -A
}
