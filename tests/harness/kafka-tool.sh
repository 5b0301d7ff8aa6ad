#!/usr/bin/env bash
# kafka-tool.sh topics|console-producer|console-consumer|groups|configs ARGUMENTS...
#
# Kafka's own tools, from the jars that services.sh fetched, for machines without Docker. Where no --bootstrap-server is
# given, the broker of services.sh is meant.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cache=${PELTON_SERVICES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pelton/services}
libs=$(find "$cache" -maxdepth 1 -name 'kafka-*' -type d 2>/dev/null | sort -V | tail -n 1)
[ -n "$libs" ] || { echo "Kafka's tools are not fetched yet: make services" >&2; exit 1; }

case ${1:-} in
    topics) class=org.apache.kafka.tools.TopicCommand ;;
    console-producer) class=org.apache.kafka.tools.ConsoleProducer ;;
    console-consumer) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
    groups) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    configs) class=kafka.admin.ConfigCommand ;;
    *)
        sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
        exit 2
        ;;
esac
shift
server=()
case " $* " in
    *" --bootstrap-server "*) ;;
    *) server=(--bootstrap-server "${PELTON_KAFKA_HOST:-127.0.0.1}:${PELTON_KAFKA_PORT:-9092}") ;;
esac
# The classpath's star must reach Java as it is.
exec "${PELTON_JAVA_HOME:+$PELTON_JAVA_HOME/bin/}java" -Xmx256m \
    -Dlog4j2.configurationFile="$here/kafka/log4j2.properties" -cp "$libs/*" "$class" "${server[@]}" "$@"
