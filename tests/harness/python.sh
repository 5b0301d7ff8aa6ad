#!/usr/bin/env bash
# python.sh: the unit tests of the Python SDK, and of each plugin in Python, without WebAssembly and with nothing installed.
set -euo pipefail

cd "$(dirname -- "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=$PWD/sdk/python PYTHONDONTWRITEBYTECODE=1
(cd sdk/python && python3 -m unittest discover -t . -s tests)
for plugin in plugins/*/plugin.py; do
    (cd "$(dirname "$plugin")" && python3 -m unittest)
done
