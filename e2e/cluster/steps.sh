# shellcheck shell=bash
# The steps from nothing to a service that answers, the same for every provider.

install_packages() {
  local missing=() name
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
  local provider missing
  provider=$(pick_provider)
  [[ -f $CLUSTER_DIR/providers/$provider.sh ]] || fail "PROVIDER=$provider is not one of: kind, local"
  # shellcheck disable=SC1090
  source "$CLUSTER_DIR/providers/$provider.sh"
  missing=$(provider_missing)
  [[ -z $missing ]] || fail "no cluster can be made here with the provider '$provider': $missing.
Install Docker or Podman with kind (any system), or run as root on Debian or Ubuntu (no engine needed)."
  mkdir -p "$STATE" "$LOGS"
  printf '%s' "$provider" >"$STATE/provider"
  export PATH="$STATE/bin:$PATH"
}

cluster_up() {
  load_provider
  say "${BOLD}Cluster${PLAIN} (provider $(cat "$STATE/provider"), logs in $LOGS)"
  provider_up
}

cluster_down() { load_provider; provider_down; say "the cluster is gone"; }
cluster_status() { load_provider; provider_status; kubectl get pods -A; }
