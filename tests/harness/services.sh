#!/usr/bin/env bash
# services.sh up|down|status [kafka] [cassandra]
# services.sh how     docker or java: what `up` would start them with
# services.sh java    the Java 17 that it would start them with
# services.sh jars kafka|cassandra    the directory of its jars, fetched where they are not there yet
#
# Real Kafka and real Cassandra for development and tests. With Docker, where an engine answers: the compose file at the
# top of the repository. Without: as processes of a local Java 17, from jars that Maven fetches once into a cache.
# What already answers on an address is used as it is, and never stopped; `down` stops only what `up` started.
#
# Settings, with their defaults:
#   PELTON_SERVICES                 docker or java; the first that is there
#   PELTON_SERVICES_DIR             .pelton/services in the repository: data, logs, process ids
#   PELTON_SERVICES_CACHE           ~/.cache/pelton/services: jars
#   PELTON_KAFKA_HOST               127.0.0.1
#   PELTON_KAFKA_PORT               9092
#   PELTON_KAFKA_CONTROLLER_PORT    the port above, plus 1
#   PELTON_KAFKA_HEAP               512m
#   PELTON_CASSANDRA_HOST           127.0.0.1; any 127.0.0.N
#   PELTON_CASSANDRA_PORT           9042
#   PELTON_CASSANDRA_STORAGE_PORT   7000
#   PELTON_CASSANDRA_HEAP           512m
#   PELTON_CASSANDRA_AUTHENTICATOR  AllowAllAuthenticator
#   PELTON_JAVA_HOME                a Java 17, where `java` is another
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
top=$(cd -- "$here/../.." && pwd)

kafka_version=4.3.1
cassandra_version=5.0.8
start_limit_s=180
stop_limit_s=30

state=${PELTON_SERVICES_DIR:-$top/.pelton/services}
cache=${PELTON_SERVICES_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pelton/services}
kafka_host=${PELTON_KAFKA_HOST:-127.0.0.1}
kafka_port=${PELTON_KAFKA_PORT:-9092}
kafka_controller_port=${PELTON_KAFKA_CONTROLLER_PORT:-$((kafka_port + 1))}
cassandra_host=${PELTON_CASSANDRA_HOST:-127.0.0.1}
cassandra_port=${PELTON_CASSANDRA_PORT:-9042}
cassandra_storage_port=${PELTON_CASSANDRA_STORAGE_PORT:-7000}

say() { printf '%s\n' "$*"; }
fail() { printf 'services: %s\n' "$*" >&2; exit 1; }

# ------------------------------------------------------------------------------------------------ who answers there

# exchange HOST PORT REQUEST BYTES: sends the bytes that printf makes of REQUEST, prints the first BYTES of the answer
# in hexadecimal. Fails where nothing listens.
exchange() {
    timeout 5 bash -c '
        exec 3<>"/dev/tcp/$1/$2" || exit 1
        printf "$3" >&3
        timeout 3 head -c "$4" <&3 | od -An -v -tx1 | tr -d " \n"
    ' exchange "$@" 2>/dev/null
}

listens() { timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' listens "$1" "$2" 2>/dev/null; }

# ApiVersions, version 0, correlation id 0x50656c74: an answer carries the same id and no error.
kafka_answers() {
    local answer
    answer=$(exchange "$kafka_host" "$kafka_port" '\0\0\0\012\0\022\0\0\120\145\154\164\377\377' 10) || return 1
    [ "${answer:8:12}" = 50656c740000 ]
}

# OPTIONS of CQL's protocol 4: the answer is SUPPORTED.
cassandra_answers() {
    local answer
    answer=$(exchange "$cassandra_host" "$cassandra_port" '\004\0\0\0\005\0\0\0\0' 5) || return 1
    [ "$answer" = 8400000006 ]
}

address() {
    case $1 in
        kafka) say "$kafka_host:$kafka_port" ;;
        cassandra) say "$cassandra_host:$cassandra_port" ;;
    esac
}

# ------------------------------------------------------------------------------------------------ what we started

mark() { say "-Dpelton.service=$1:$state"; }

# The words that a process was started with: from /proc, or from ps where there is none.
command_line() {
    if [ -r "/proc/$1/cmdline" ]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -ww -o command= -p "$1" 2>/dev/null; fi
}

# The process of a service that we started, if it runs: the pid file alone may name somebody else by now.
our_pid() {
    local pid
    pid=$(cat "$state/$1/pid" 2>/dev/null) || return 1
    command_line "$pid" | grep -qF -- "$(mark "$1")" || return 1
    say "$pid"
}

await() {
    local service=$1 pid=$2 began=$SECONDS
    until "${service}_answers"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            tail -n 20 "$state/$service/log" >&2
            fail "$service ended while it started; the whole log is $state/$service/log"
        fi
        if ((SECONDS - began > start_limit_s)); then
            tail -n 20 "$state/$service/log" >&2
            fail "$service does not answer on $(address "$service") after $start_limit_s s; its log is $state/$service/log"
        fi
        sleep 0.2
    done
    say "$service answers on $(address "$service") (pid $pid)"
}

halt() {
    local service=$1 pid began=$SECONDS
    if ! pid=$(our_pid "$service"); then
        rm -f "$state/$service/pid"
        return 0
    fi
    kill -TERM "$pid" 2>/dev/null || true
    while our_pid "$service" >/dev/null; do
        if ((SECONDS - began > stop_limit_s)); then
            kill -KILL "$pid" 2>/dev/null || true
            say "$service did not end within $stop_limit_s s, and was killed"
            break
        fi
        sleep 0.1
    done
    rm -f "$state/$service/pid"
    say "$service stopped (its data stay in $state/$service)"
}

# ------------------------------------------------------------------------------------------------ Java

java_major() { "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1; }

find_java() {
    local candidate found=()
    for candidate in ${PELTON_JAVA_HOME:+"$PELTON_JAVA_HOME/bin/java"} ${JAVA_HOME:+"$JAVA_HOME/bin/java"} \
        "$(command -v java || true)" /usr/lib/jvm/*17*/bin/java /Library/Java/JavaVirtualMachines/*17*/Contents/Home/bin/java; do
        [ -x "$candidate" ] || continue
        local major
        major=$(java_major "$candidate")
        if [ "$major" = 17 ]; then
            java=$candidate
            return 0
        fi
        found+=("$candidate (Java ${major:-unknown})")
    done
    fail "no Java 17 on this machine${found[*]:+ (there is: ${found[*]})}. Kafka and Cassandra run on Java 17 where no Docker engine answers.
  Debian, Ubuntu: apt-get install -y openjdk-17-jre-headless
  macOS:          brew install openjdk@17
  Installed in an odd place? Set PELTON_JAVA_HOME."
}

# jars SERVICE VERSION: fetches the jars of a service into the cache, once.
jars() {
    local service=$1 version=$2 into=$cache/$1-$2
    if [ ! -d "$into" ]; then
        command -v mvn >/dev/null || fail "Maven is missing: it fetches Kafka and Cassandra where no Docker engine answers.
  Debian, Ubuntu: apt-get install -y maven
  macOS:          brew install maven"
        say "fetching $service $version into $into (about 60 MB, once)" >&2
        local partial=$into.partial.$$
        rm -rf "$partial"
        mkdir -p "$cache"
        mvn -q -B -ntp -f "$here/$service/pom.xml" "-D$service.version=$version" dependency:copy-dependencies \
            -DincludeScope=runtime "-DoutputDirectory=$partial" >&2 \
            || { rm -rf "$partial"; fail "Maven could not fetch $service $version; its message stands above"; }
        mv "$partial" "$into" 2>/dev/null || rm -rf "$partial"
    fi
    libs=$into
}

# fill FILE NAME=VALUE...: the file with each @NAME@ replaced.
fill() {
    local text pair
    text=$(cat "$1")
    shift
    for pair in "$@"; do text=${text//"@${pair%%=*}@"/"${pair#*=}"}; done
    printf '%s\n' "$text"
}

# launch SERVICE COMMAND...: runs it apart from this terminal.
launch() {
    local service=$1 dir=$state/$1
    shift
    : >"$dir/log"
    (
        cd "$dir"
        exec 9>&-
        if command -v setsid >/dev/null; then exec setsid "$@"; else exec nohup "$@"; fi
    ) >"$dir/log" 2>&1 </dev/null &
    started_pid=$!
    say "$started_pid" >"$dir/pid"
}

start_kafka() {
    local dir=$state/kafka
    find_java
    jars kafka "$kafka_version"
    mkdir -p "$dir"
    fill "$here/kafka/server.properties" "HOST=$kafka_host" "PORT=$kafka_port" \
        "CONTROLLER_PORT=$kafka_controller_port" "DATA=$dir/data" >"$dir/server.properties"
    local log4j=-Dlog4j2.configurationFile=$here/kafka/log4j2.properties
    if [ ! -f "$dir/data/meta.properties" ]; then
        # Any base64 UUID will do as the id of the cluster.
        "$java" -XX:TieredStopAtLevel=1 "$log4j" -cp "$libs/*" kafka.tools.StorageTool format \
            -t MkU3OEVBNTcwNTJENDM2Qg -c "$dir/server.properties" >"$dir/format.log" 2>&1 \
            || { cat "$dir/format.log" >&2; fail "Kafka's data directory $dir/data could not be made"; }
    fi
    launch kafka "$java" "$(mark kafka)" -Xms256m "-Xmx${PELTON_KAFKA_HEAP:-512m}" -XX:+UseG1GC \
        -XX:MaxGCPauseMillis=20 -Djava.awt.headless=true "$log4j" -cp "$libs/*" kafka.Kafka "$dir/server.properties"
}

start_cassandra() {
    local dir=$state/cassandra flags=() apart=()
    find_java
    jars cassandra "$cassandra_version"
    mkdir -p "$dir"/{data,commitlog,hints,saved_caches,cdc_raw,tmp}
    fill "$here/cassandra/cassandra.yaml" "HOST=$cassandra_host" "PORT=$cassandra_port" "DIR=$dir" \
        "STORAGE_PORT=$cassandra_storage_port" "TLS_STORAGE_PORT=$((cassandra_storage_port + 1))" \
        "AUTHENTICATOR=${PELTON_CASSANDRA_AUTHENTICATOR:-AllowAllAuthenticator}" >"$dir/cassandra.yaml"
    local flag
    while read -r flag; do
        case $flag in --*) flags+=("${flag/ /=}") ;; -*) flags+=("$flag") ;; esac
    done <"$here/cassandra/jvm.options"
    # As root Cassandra would lock its memory, 900 MB of it: take the right away.
    ulimit -l 0 2>/dev/null || true
    if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
        apart=(setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock)
    fi
    local jamm
    jamm=$(find "$libs" -name 'jamm-*.jar' | head -n 1)
    MALLOC_ARENA_MAX=2 launch cassandra "${apart[@]}" "$java" "$(mark cassandra)" "${flags[@]}" -Xms128m \
        "-Xmx${PELTON_CASSANDRA_HEAP:-512m}" -XX:MaxDirectMemorySize=256m "-javaagent:$jamm" \
        "-Djava.io.tmpdir=$dir/tmp" "-Dcassandra.config=file://$dir/cassandra.yaml" "-Dcassandra.storagedir=$dir" \
        "-Dcassandra.logdir=$dir" "-Dlogback.configurationFile=$here/cassandra/logback.xml" \
        -cp "$libs/*" org.apache.cassandra.service.CassandraDaemon
}

# ------------------------------------------------------------------------------------------------ Docker

docker_answers() {
    command -v docker >/dev/null && timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1 \
        && docker compose version >/dev/null 2>&1
}

# A Docker engine alone is not enough: it is the compose file that is started.
how() {
    case ${PELTON_SERVICES:-} in
        docker | java) say "$PELTON_SERVICES" ;;
        '') if docker_answers; then say docker; else say java; fi ;;
        *) fail "PELTON_SERVICES is docker or java, not $PELTON_SERVICES" ;;
    esac
}

compose() { docker compose -f "$top/docker-compose.yml" "$@"; }

up_docker() {
    mkdir -p "$state"
    compose up -d --wait "$@"
    printf '%s\n' "$@" >>"$state/docker"
    local service
    for service in "$@"; do say "$service answers on $(address "$service") (Docker)"; done
}

# ------------------------------------------------------------------------------------------------ the verbs

up() {
    local service wanted=() waiting=() pid
    for service in "$@"; do
        if "${service}_answers"; then
            if pid=$(our_pid "$service"); then
                say "$service already answers on $(address "$service") (pid $pid)"
            elif grep -qx "$service" "$state/docker" 2>/dev/null; then
                say "$service already answers on $(address "$service") (Docker)"
            else
                say "$service on $(address "$service") was already there: it is used, and will not be stopped"
            fi
        elif pid=$(our_pid "$service"); then
            waiting+=("$service:$pid")
        else
            local where
            where=$(address "$service")
            if listens "${where%:*}" "${where#*:}"; then
                fail "something listens on $where that is not $service; stop it, or choose another port (head of $here/services.sh)"
            fi
            wanted+=("$service")
        fi
    done
    if ((${#wanted[@]})); then
        local how
        how=$(how)
        case $how in
            docker) up_docker "${wanted[@]}" ;;
            java)
                for service in "${wanted[@]}"; do
                    "start_$service"
                    waiting+=("$service:$started_pid")
                done
                ;;
        esac
    fi
    for service in ${waiting[@]+"${waiting[@]}"}; do await "${service%%:*}" "${service#*:}"; done
}

down() {
    local service
    for service in "$@"; do
        if grep -qx "$service" "$state/docker" 2>/dev/null; then
            compose stop "$service" >&2
            grep -vx "$service" "$state/docker" >"$state/docker.new" || true
            mv "$state/docker.new" "$state/docker"
            say "$service stopped (Docker; its data stay in their volume)"
        else
            halt "$service"
        fi
    done
}

status() {
    local service pid
    for service in "$@"; do
        if ! "${service}_answers"; then
            say "$service does not answer on $(address "$service")"
        elif pid=$(our_pid "$service"); then
            say "$service answers on $(address "$service") (started here, pid $pid)"
        elif grep -qx "$service" "$state/docker" 2>/dev/null; then
            say "$service answers on $(address "$service") (started here, Docker)"
        else
            say "$service answers on $(address "$service") (not started here)"
        fi
    done
}

verb=${1:-}
shift || true
case $verb in
    how)
        how
        exit
        ;;
    java)
        find_java
        say "$java"
        exit
        ;;
    jars)
        case ${1:-} in
            kafka) jars kafka "$kafka_version" ;;
            cassandra) jars cassandra "$cassandra_version" ;;
            *) fail "jars of kafka or of cassandra, not of ${1:-nothing}" ;;
        esac
        say "$libs"
        exit
        ;;
esac
for service in "$@"; do
    case $service in kafka | cassandra) ;; *) fail "there is no service $service; there are kafka and cassandra" ;; esac
done
[ $# -gt 0 ] || set -- kafka cassandra

case $verb in
    up | down)
        mkdir -p "$state"
        if command -v flock >/dev/null; then
            exec 9>"$state/lock"
            flock 9
        fi
        "$verb" "$@"
        ;;
    status) status "$@" ;;
    *)
        sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
        exit 2
        ;;
esac
