#!/usr/bin/env bash
# Compiles the app's plain Kotlin code, its host engines and its tests for this machine's JVM, and runs the tests.
# usage: build_jvm.sh PARTS OUT
set -euo pipefail
PARTS=$(realpath "${1:?usage: build_jvm.sh PARTS OUT}")
OUT=$(realpath -m "${2:?usage: build_jvm.sh PARTS OUT}")
APP=$(cd "$(dirname "$0")/.." && pwd)
source "$APP/offline/kotlin.sh"
mkdir -p "$OUT"

# One call for all of it: most of a call's time is the compiler's own start.
# The app's engines import nothing of Android; ExecuTorch's classes are those that go into the APK.
engines=("$APP"/app/src/main/kotlin/org/g3n/app/{Engines,LiteRtLmEngine,LlmModuleEngine,ModuleProgram,NativeErrors}.kt)
unzip -q -o -p "$PARTS"/maven-apk/fbjni-*.aar classes.jar >"$OUT/fbjni.jar"
executorch="$PARTS/react-native-executorch/android/libs/classes.jar:$OUT/fbjni.jar:$(echo "$PARTS"/maven-apk/nativeloader-*.jar)"
sources=("$APP/core/src/main/kotlin" "$APP/host/src/main/kotlin" "$APP/core/src/test/kotlin" "$APP/core/src/testShared/kotlin" "${engines[@]}")
compile "$OUT/jvm.jar" "$GSON:$executorch:$TEST_LIBRARIES" "${sources[@]}"

classes=$(cd "$APP/core/src/test/kotlin" && grep -lr '@Test' . | sed -E 's|^\./||; s|/|.|g; s|\.kt$||' | sort)
resources="$APP/core/src/test/resources:$APP/../runtime_shims/g3n_runtime"
java -Xmx512m "-Dg3n.repository=$APP/.." -cp "$OUT/jvm.jar:$GSON:$executorch:$KOTLIN_STDLIB:$TEST_LIBRARIES:$resources" \
    org.junit.runner.JUnitCore $classes
