#!/bin/sh
# Kafka's own tool, under its own name: put this directory on the path.
exec "$(dirname -- "$0")/../kafka-tool.sh" topics "$@"
