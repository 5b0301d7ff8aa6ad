#!/usr/bin/env bash
# kafka-tool.sh topics|console-producer|console-consumer|groups|configs ARGUMENTS...
#
# Kafka's own tools, on a Java 17, from the jars that services.sh fetches. Where no --bootstrap-server is
# given, the broker of services.sh is meant.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
java=$("$here/services.sh" java)
libs=$("$here/services.sh" jars kafka)

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
exec "$java" -Xmx256m \
    -Dlog4j2.configurationFile="$here/kafka/log4j2.properties" -cp "$libs/*" "$class" "${server[@]}" "$@"
