#!/usr/bin/env bash
# Makes the kit of g3n-verify --arch arm64: an emulator, a small aarch64 Debian, the runtimes' wheels and our runners.
# usage: build_arm64.sh PARTS KIT
set -euo pipefail
PARTS=$(realpath "${1:?usage: build_arm64.sh PARTS KIT}")
KIT=$(realpath -m "${2:?usage: build_arm64.sh PARTS KIT}")
SHIMS=$(cd "$(dirname "$0")/../../runtime_shims/arm64" && pwd)
mkdir -p "$KIT"

ln -sfn "$PARTS/trixie/usr/bin/qemu-aarch64" "$KIT/qemu-aarch64"
ln -sfn "$PARTS/aarch64" "$KIT/site"
ln -sfn "$SHIMS/litert_run.py" "$KIT/litert_run.py"

if [ ! -e "$KIT/tree/usr/bin/python3.11" ]; then
    rm -rf "$KIT/tree"
    mmdebstrap --quiet --arch=arm64 --variant=extract \
        --include=python3.11-minimal,libpython3.11-stdlib,libstdc++6,libgcc-s1,zlib1g bookworm "$KIT/tree"
fi

cmake -S "$SHIMS" -B "$KIT/runner" -DCMAKE_PREFIX_PATH="$PARTS/aarch64/executorch" -DCMAKE_SYSTEM_NAME=Linux \
    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ >/dev/null
cmake --build "$KIT/runner" >/dev/null
ln -sfn runner/g3n_executorch_run "$KIT/g3n_executorch_run"
