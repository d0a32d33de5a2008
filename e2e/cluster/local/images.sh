# shellcheck shell=bash
# Images without an engine: mmdebstrap makes the base, buildah runs the ordinary Dockerfiles, containerd imports archives.

BASE_NAME=docker.io/library/debian:bookworm-slim

# Its folder of mounts belongs to a namespace that ends with it.
buildah_in() {
  unshare --mount -- buildah --root "$CACHE/buildah" --runroot "$STATE/buildah" --storage-driver overlay "$@"
}

archive_of() { printf '%s/images/%s.tar' "$CACHE" "$1"; }

# archive_image KEY NAME CONTEXT [BUILD OPTIONS...]: builds NAME unless its archive is there.
archive_image() {
  local archive name=$2 context=$3
  archive="$(archive_of "$1")"
  shift 3
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

kafka_version() { sed -nE '/kafka_2.13/{n;s#.*<version>(.*)</version>.*#\1#p}' "$CLUSTER_DIR/kafka/pom.xml"; }
kafka_home() { printf '%s/kafka-%s' "$CACHE" "$(hash_of "$CLUSTER_DIR/kafka/pom.xml")"; }

kafka_jars() {
  local home
  home="$(kafka_home)"
  [[ -d $home ]] && return
  have mvn || install_packages maven
  mvn -q -B -f "$CLUSTER_DIR/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$home.new/libs"
  mv "$home.new" "$home"
}

# name, key and context of every image that is not ours
other_image_list() {
  printf '%s %s\n' \
    docker.io/shardlane/pause:1 "pause-$(hash_of "$CLUSTER_DIR/pause")" \
    "$POSTGRES_IMAGE" "postgres-$(hash_of "$CLUSTER_DIR/postgres")" \
    "$KAFKA_IMAGE" "kafka-$(hash_of "$CLUSTER_DIR/kafka")" \
    docker.io/shardlane/cloudnative-pg:local "cloudnative-pg-$(module_key cloudnative-pg)"
}

other_images() {
  archive_image "pause-$(hash_of "$CLUSTER_DIR/pause")" docker.io/shardlane/pause:1 "$CLUSTER_DIR/pause"
  archive_image "postgres-$(hash_of "$CLUSTER_DIR/postgres")" "$POSTGRES_IMAGE" "$CLUSTER_DIR/postgres"
  archive_image "kafka-$(hash_of "$CLUSTER_DIR/kafka")" "$KAFKA_IMAGE" "$(kafka_home)" --file "$CLUSTER_DIR/kafka/Dockerfile"
  archive_image "cloudnative-pg-$(module_key cloudnative-pg)" docker.io/shardlane/cloudnative-pg:local \
    "$(module_bin cloudnative-pg)" --file "$CLUSTER_DIR/cloudnative-pg/Dockerfile"
}

# Into the node, unless they are there; reads lines of name and key.
import_archives() {
  local name key present
  present=$(inside ctr --namespace k8s.io images list --quiet)
  while read -r name key; do
    grep -qxF "$name" <<<"$present" && continue
    inside ctr --namespace k8s.io images import "$(archive_of "$key")"
  done
}

import_others() { other_image_list | import_archives; }

provider_images() {
  local name tag
  tag=$(image_tag)
  for name in "${IMAGES[@]}"; do
    archive_image "$name-$tag" "docker.io/shardlane/$name:$tag" "$STATE/programs" --file "$ROOT/Dockerfile" --target "$name"
  done
  for name in "${IMAGES[@]}"; do printf '%s %s\n' "docker.io/shardlane/$name:$tag" "$name-$tag"; done | import_archives
}

# The release's own manifest, with our image of the same program.
provider_cloudnative_pg() {
  local version folder
  version=$(module_version cloudnative-pg)
  folder=$(cd "$CLUSTER_DIR/tools/cloudnative-pg" && go list -m -f '{{.Dir}}' "${MODULES[cloudnative-pg]}")
  sed -e "s#ghcr.io/cloudnative-pg/cloudnative-pg:[0-9.]*#docker.io/shardlane/cloudnative-pg:local#" \
    -e 's#imagePullPolicy: Always#imagePullPolicy: IfNotPresent#' "$folder/releases/cnpg-${version#v}.yaml"
}
