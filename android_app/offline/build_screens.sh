#!/usr/bin/env bash
# Runs the app's real screens on this machine's JVM, with Android's own widgets, resources and drawing (Robolectric).
# usage: build_screens.sh PARTS OUT PICTURES [CLASS...]   after build_apk.sh PARTS OUT; PICTURES gets what was drawn
#
# CLASS is one of app/src/test, and all of those by default, or of app/src/testEngines. The latter need the app's engines:
# then JAVA_OPTIONS names what they read (-Dg3n.shims=... and so on, see tests/test_screens.py).
set -euo pipefail
PARTS=$(realpath "${1:?usage: build_screens.sh PARTS OUT PICTURES [CLASS...]}")
OUT=$(realpath -m "${2:?usage: build_screens.sh PARTS OUT PICTURES [CLASS...]}")
PICTURES=$(realpath -m "${3:?usage: build_screens.sh PARTS OUT PICTURES [CLASS...]}")
shift 3
APP=$(cd "$(dirname "$0")/.." && pwd)
source "$APP/offline/kotlin.sh"
work="$OUT/screens"
mkdir -p "$work/settings/com/android/tools" "$PICTURES"
printf 'android_custom_package=org.g3n.app\nandroid_merged_manifest=%s\nandroid_resource_apk=%s\n' \
    "$OUT/apk/AndroidManifest.xml" "$OUT/apk/base.apk" >"$work/settings/com/android/tools/test_config.properties"
echo "sdk=34" >"$work/settings/robolectric.properties"

android="$PARTS/bullseye/usr/share/java/com.android.android-23.jar"
framework=$(echo "$PARTS"/robolectric-framework/*.jar)
robolectric=$(printf '%s:' "$PARTS"/robolectric/*.jar)
# What the app is built without here, its engines, is beside it only where a test runs them.
executorch="$PARTS/react-native-executorch/android/libs/classes.jar:$work/fbjni.jar:$(echo "$PARTS"/maven-apk/nativeloader-*.jar)"
unzip -q -o -p "$PARTS"/maven-apk/fbjni-*.aar classes.jar >"$work/fbjni.jar"
engines="${JAVA_OPTIONS:+$OUT/litertlm-signatures.jar:$executorch:}"
app="$OUT/app.jar:$OUT/apk/r.jar:$GSON:$KOTLIN_STDLIB:$APP/../runtime_shims/g3n_runtime"
# The oldest level's classes first: Kotlin cannot inherit from those that Robolectric has rewritten.
KOTLIN_OPTIONS="-Xfriend-paths=$OUT/app.jar" compile "$work/tests.jar" "$android:$framework:$app:$executorch:$robolectric$TEST_LIBRARIES" \
    "$APP/app/src/test/kotlin" "$APP/app/src/testEngines/kotlin" "$APP/core/src/testShared/kotlin" \
    "$APP/host/src/main/kotlin/org/g3n/host/HostEngines.kt"

[ $# -gt 0 ] || set -- $(cd "$APP/app/src/test/kotlin" && grep -lr '@Test' . | sed -E 's|^\./||; s|/|.|g; s|\.kt$||' | sort)
# The framework's jar comes last: shadows name classes that an older one lacks.
java -Xmx1g -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=256m --add-opens java.base/java.io=ALL-UNNAMED \
    "-Drobolectric.dependency.dir=$PARTS/robolectric-framework" -Drobolectric.offline=true "-Dg3n.pictures=$PICTURES" \
    ${JAVA_OPTIONS:-} -cp "$work/tests.jar:$work/settings:$app:$engines$robolectric$TEST_LIBRARIES:$APP/core/src/test/resources:$APP/app/src/test/resources:$framework" \
    org.junit.runner.JUnitCore "$@"
