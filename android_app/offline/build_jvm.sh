#!/usr/bin/env bash
# Compiles the app's plain Kotlin modules and their tests for the host's JVM, and runs the tests.
# usage: build_jvm.sh PARTS OUT
set -euo pipefail
PARTS=$(realpath "${1:?usage: build_jvm.sh PARTS OUT}")
OUT=$(realpath -m "${2:?usage: build_jvm.sh PARTS OUT}")
APP=$(cd "$(dirname "$0")/.." && pwd)
source "$APP/offline/kotlin.sh"
mkdir -p "$OUT"

compile "$OUT/core.jar" "$GSON" "$APP/core/src/main/kotlin"
compile "$OUT/host.jar" "$OUT/core.jar:$GSON" "$APP/host/src/main/kotlin"
compile "$OUT/tests.jar" "$OUT/core.jar:$GSON:$TEST_LIBRARIES" "$APP/core/src/test/kotlin"

classes=$(cd "$APP/core/src/test/kotlin" && grep -lr '@Test' . | sed -E 's|^\./||; s|/|.|g; s|\.kt$||' | sort)
resources="$APP/core/src/test/resources:$APP/../runtime_shims/g3n_runtime"
java -Xmx512m "-Dg3n.repository=$APP/.." \
    -cp "$OUT/tests.jar:$OUT/core.jar:$GSON:$KOTLIN_STDLIB:$TEST_LIBRARIES:$resources" org.junit.runner.JUnitCore $classes
