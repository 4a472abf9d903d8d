#!/usr/bin/env bash
# Builds the native side of the host engines over the libraries in the Python environment's wheels.
# usage: build_shims.sh SITE_PACKAGES OUT
set -euo pipefail
SITE=$(realpath "${1:?usage: build_shims.sh SITE_PACKAGES OUT}")
OUT=$(realpath -m "${2:?usage: build_shims.sh SITE_PACKAGES OUT}")
SHIMS=$(cd "$(dirname "$0")/../../runtime_shims/jni" && pwd)
JAVA_HOME=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")}
export JAVA_HOME
cmake -S "$SHIMS" -B "$OUT" -DCMAKE_PREFIX_PATH="$SITE/executorch" >/dev/null
cmake --build "$OUT" >/dev/null
