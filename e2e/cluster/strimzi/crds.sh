# shellcheck shell=bash
# Strimzi's CRDs, made from its own types and kept in the cache by version.

strimzi_version() { sed -nE '/>api</{n;s#.*<version>(.*)</version>.*#\1#p}' "$CLUSTER_DIR/strimzi/pom.xml"; }
strimzi_crds_home() { printf '%s/strimzi-crds-%s' "$CACHE" "$(hash_of "$CLUSTER_DIR/strimzi/pom.xml")"; }

strimzi_crds() {
  local home work java
  home="$(strimzi_crds_home)"
  [[ -d $home ]] && return
  have mvn || install_packages maven
  have mmdebstrap || install_packages mmdebstrap
  work=$(mktemp -d)
  # The generator needs Java 21, which Debian has since 13: a tree of it, just for this.
  mmdebstrap --variant=extract --include=base-files,openjdk-21-jre-headless trixie "$work/debian"
  mvn -q -B -f "$CLUSTER_DIR/strimzi/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/debian/jars"
  mkdir -p "$work/debian/out" "$work/debian/proc"
  # Java finds itself through /proc. The mount ends with its namespace.
  java=$(cd "$work/debian" && printf '/%s' usr/lib/jvm/java-21-openjdk-*/bin/java)
  # shellcheck disable=SC2016
  unshare --mount sh -ec 'mount -t proc proc "$1/proc"; exec chroot "$@"' sh "$work/debian" "$java" -cp '/jars/*' io.strimzi.crdgenerator.CrdGenerator \
    --yaml --target-kube 1.25+ --crd-api-version v1 --api-versions v1 --storage-version v1 \
    io.strimzi.api.kafka.model.kafka.Kafka=/out/kafka.yaml \
    io.strimzi.api.kafka.model.topic.KafkaTopic=/out/kafkatopic.yaml \
    io.strimzi.api.kafka.model.user.KafkaUser=/out/kafkauser.yaml
  mv "$work/debian/out" "$home"
  rm -rf "$work"
}
