#!/usr/bin/env bash
# Builds the native side of the host engines over the libraries in the Python environment's wheels.
# usage: build_shims.sh SITE_PACKAGES OUT      (PYTHON: the interpreter of that environment)
set -euo pipefail
SITE=$(realpath "${1:?usage: build_shims.sh SITE_PACKAGES OUT}")
OUT=$(realpath -m "${2:?usage: build_shims.sh SITE_PACKAGES OUT}")
SHIMS=$(cd "$(dirname "$0")/../../runtime_shims/jni" && pwd)
JAVA_HOME=${JAVA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")}
export JAVA_HOME
# ExecuTorch's runner is in a Python extension, which is opened here without an interpreter around it.
PYTHON_LIBRARY=$("${PYTHON:-python3.11}" -c \
    'import sysconfig; print("/".join(sysconfig.get_config_vars("LIBDIR", "INSTSONAME")))')
[ -e "$PYTHON_LIBRARY" ] || { echo "$PYTHON_LIBRARY is needed: install libpython3.11" >&2; exit 1; }
cmake -S "$SHIMS" -B "$OUT" -DCMAKE_PREFIX_PATH="$SITE/executorch" -DG3N_PYTHON="$PYTHON_LIBRARY" >/dev/null
cmake --build "$OUT" >/dev/null
