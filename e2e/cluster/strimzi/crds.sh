# shellcheck shell=bash
# Strimzi's CRDs, made from its own types and kept in the cache by version.

strimzi_version() { sed -nE '/>api</{n;s#.*<version>(.*)</version>.*#\1#p}' "$CLUSTER_DIR/strimzi/pom.xml"; }
strimzi_crds_home() { printf '%s/strimzi-crds-%s' "$CACHE" "$(hash_of "$CLUSTER_DIR/strimzi/pom.xml")"; }

strimzi_crds() {
  local home jars
  home="$(strimzi_crds_home)"
  [[ -d $home ]] && return
  have mvn || install_packages maven
  jars=$(mktemp -d)
  mvn -q -B -f "$CLUSTER_DIR/strimzi/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars"
  mkdir -p "$home.new"
  java -cp "$jars/*" io.strimzi.crdgenerator.CrdGenerator --yaml --target-kube 1.25+ --crd-api-version v1 \
    --api-versions v1 --storage-version v1 \
    "io.strimzi.api.kafka.model.kafka.Kafka=$home.new/kafka.yaml" \
    "io.strimzi.api.kafka.model.topic.KafkaTopic=$home.new/kafkatopic.yaml" \
    "io.strimzi.api.kafka.model.user.KafkaUser=$home.new/kafkauser.yaml"
  rm -rf "$jars"
  mv "$home.new" "$home"
}
