# shellcheck shell=bash
# A broker as a folder of jars from Maven Central, kept in the cache by version.

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
