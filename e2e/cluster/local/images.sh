# shellcheck shell=bash
# Images without an engine: mmdebstrap makes the base, buildah runs the ordinary Dockerfiles, containerd imports archives.

BASE_NAME=docker.io/library/debian:bookworm-slim

# Its folder of mounts belongs to a namespace that ends with it.
buildah_in() {
  CONTAINERS_CONF="$CLUSTER_DIR/local/containers.conf" unshare --mount -- buildah --root "$CACHE/buildah" --runroot "$STATE/buildah" --storage-driver overlay "$@"
}

archive_of() { printf '%s/images/%s.tar' "$CACHE" "$(tr '/:' '__' <<<"$1")"; }

# archive_image NAME CONTEXT [BUILD OPTIONS...]: builds an image unless its archive is there. Names change with contents.
archive_image() {
  local name=$1 context=$2 archive
  archive="$(archive_of "$name")"
  shift 2
  [[ -f $archive ]] && return
  mkdir -p "$CACHE/images"
  buildah_in bud --isolation chroot --pull-never --layers --tag "$name" "$@" "$context"
  rm -f "$archive.new"
  buildah_in push "$name" "oci-archive:$archive.new:$name"
  mv "$archive.new" "$archive"
}

base_image() {
  buildah_in inspect --type image "$BASE_NAME" >/dev/null 2>&1 && return
  local scratch=$CACHE/base.tar container
  mkdir -p "$CACHE"
  mmdebstrap --variant=minbase bookworm "$scratch"
  container=$(buildah_in from scratch)
  buildah_in add "$container" "$scratch" /
  buildah_in config --cmd bash "$container"
  buildah_in commit --rm "$container" "$BASE_NAME"
  rm -f "$scratch"
}

PAUSE_IMAGE=docker.io/shardlane/pause:1
CLOUDNATIVE_PG_IMAGE="docker.io/shardlane/cloudnative-pg:$(module_key cloudnative-pg)"
KAFKA_IMAGE="docker.io/shardlane/kafka:$(hash_of "$CLUSTER_DIR/kafka/pom.xml" "$CLUSTER_DIR/kafka/Dockerfile")"
REDIS_IMAGE="docker.io/shardlane/redis:$(hash_of "$CLUSTER_DIR/redis/Dockerfile")"
# CloudNativePG reads the version from the tag's beginning.
POSTGRES_IMAGE="docker.io/shardlane/postgresql:15-$(hash_of "$CLUSTER_DIR/postgres/Dockerfile")"

other_images() {
  archive_image "$PAUSE_IMAGE" "$CLUSTER_DIR/pause"
  archive_image "$POSTGRES_IMAGE" "$CLUSTER_DIR/postgres"
  archive_image "$REDIS_IMAGE" "$CLUSTER_DIR/redis"
  archive_image "$KAFKA_IMAGE" "$(kafka_home)" --file "$CLUSTER_DIR/kafka/Dockerfile"
  archive_image "$CLOUDNATIVE_PG_IMAGE" "$(module_bin cloudnative-pg)" --file "$CLUSTER_DIR/cloudnative-pg/Dockerfile"
}

# import_images NAME...: into the node, unless they are there.
import_images() {
  local name present
  present=$(inside ctr --namespace k8s.io images list --quiet)
  for name in "$@"; do
    grep -qxF "$name" <<<"$present" || inside ctr --namespace k8s.io images import "$(archive_of "$name")"
  done
}

import_others() { import_images "$PAUSE_IMAGE" "$POSTGRES_IMAGE" "$REDIS_IMAGE" "$KAFKA_IMAGE" "$CLOUDNATIVE_PG_IMAGE"; }

provider_images() {
  local name tag names=()
  tag=$(image_tag)
  for name in "${IMAGES[@]}"; do
    names+=("docker.io/shardlane/$name:$tag")
    archive_image "${names[-1]}" "$STATE/programs" --file "$ROOT/Dockerfile" --target "$name"
  done
  import_images "${names[@]}"
}

# The release's own manifest, with our image of the same program.
provider_cloudnative_pg() {
  local version folder
  version=$(module_version cloudnative-pg)
  folder=$(cd "$CLUSTER_DIR/tools/cloudnative-pg" && go list -m -f '{{.Dir}}' "${MODULES[cloudnative-pg]}")
  sed -e "s#ghcr.io/cloudnative-pg/cloudnative-pg:[0-9.]*#$CLOUDNATIVE_PG_IMAGE#" \
    -e 's#imagePullPolicy: Always#imagePullPolicy: IfNotPresent#' "$folder/releases/cnpg-${version#v}.yaml"
}
