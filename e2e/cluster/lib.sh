# shellcheck shell=bash
# What every cluster script shares: paths, stages with their elapsed time, and failing with the end of the right log.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
CLUSTER_DIR="$ROOT/e2e/cluster"
# Everything that belongs to one running cluster; `down` removes it whole.
STATE="$ROOT/target/cluster"
LOGS="$STATE/log"
# Binaries and images that are expensive to make, keyed by version, shared by every work tree.
CACHE="${SHARDLANE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/shardlane}"
export KUBECONFIG="$STATE/kubeconfig"

# Two clusters of two work trees must not meet: everything global that a cluster makes carries this.
CLUSTER_ID="shardlane-$(printf '%s' "$ROOT" | sha256sum | cut -c1-8)"

CARGO_TARGET="${CARGO_TARGET_DIR:-$ROOT/target}"
STARTED=$SECONDS

if [[ -t 1 ]]; then BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m' TTY=1
else BOLD='' DIM='' RED='' GREEN='' PLAIN='' TTY=; fi

say() { printf '%s\n' "$*"; }
fail() { printf '%s%s%s\n' "$RED" "$*" "$PLAIN" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
elapsed() { printf '%dm%02ds' $((($1) / 60)) $((($1) % 60)); }

# stage NAME COMMAND...: runs a function with its output in a log of its own, and says how long it took.
stage() {
  local name=$1 began=$SECONDS log pid
  shift
  mkdir -p "$LOGS"
  log="$LOGS/$(printf '%s' "$name" | tr -c 'a-zA-Z0-9\n' '-').log"
  [[ $TTY ]] || printf '  .. %-34s %s\n' "$name" "[$(elapsed $SECONDS)]"
  ( set -euo pipefail; "$@" ) >"$log" 2>&1 </dev/null &
  pid=$!
  while [[ $TTY ]] && kill -0 "$pid" 2>/dev/null; do
    printf '\r  %s..%s %-34s %s ' "$DIM" "$PLAIN" "$name" "$(elapsed $((SECONDS - began)))"
    sleep 0.2
  done
  if wait "$pid"; then
    printf '%s  %sok%s %-34s %s\n' "${TTY:+$'\r'}" "$GREEN" "$PLAIN" "$name" "$(elapsed $((SECONDS - began)))"
  else
    printf '%s  %sfailed%s %s after %s. The end of %s:\n\n' \
      "${TTY:+$'\r'}" "$RED" "$PLAIN" "$name" "$(elapsed $((SECONDS - began)))" "$log" >&2
    tail -n 30 "$log" | sed 's/^/    /' >&2
    printf '\nRead the whole log there; the other logs lie beside it. Mend the cause and run the same command again: it goes on from here.\n' >&2
    exit 1
  fi
}

# until_true SECONDS WHAT COMMAND...: waits for a condition, asking four times a second.
# STOP_WAITING_UNLESS names a command without whose success the condition can never come true.
STOP_WAITING_UNLESS=true
until_true() {
  local limit=$1 what=$2 began=$SECONDS
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ((SECONDS - began >= limit)) || ! "$STOP_WAITING_UNLESS" >/dev/null; then
      say "waited $((SECONDS - began)) s in vain for: $what. Its last answer:"
      "$@" || true
      return 1
    fi
    sleep 0.25
  done
}

# A port of the loopback that is free now. Below those that the system gives to outgoing connections, any of which may
# take it before it is listened on.
free_port() {
  python3 -c 'import random, socket
while True:
    port = random.randrange(5000, 10000)
    try:
        socket.socket().bind(("127.0.0.1", port))
        print(port)
        break
    except OSError:
        pass'
}

# hash_of PATH...: a short key of files' contents, for caches.
hash_of() { find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | cut -d' ' -f1 | sha256sum | cut -c1-12; }
