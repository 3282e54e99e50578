#!/usr/bin/env bash
# Builds what ci/gpu.sh needs, so that the machine with the GPUs needs no Rust:
#
#   ci/build_gpu_bundle.sh [DIRECTORY]        default target/gpu-bundle
#
# DIRECTORY gets myelon-perf, myelon-tune and myelon-doctor (release, stripped), tests/NAME for each integration test, gpu.sh, the C
# library with its example (c/), the Python wheel with its tests and what runs them (python/), libmyelon_nccl.so with the PyTorch
# programs that try it (torch/), the lane tables, the stored results that new ones are held against, and VERSION. The programs need a
# C library at least as new as the building machine's, and find CUDA at run time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

destination=${1:-target/gpu-bundle}
# Complete or not there: what a failure leaves has another name, which the next run removes.
bundle=$destination.new
release=${CARGO_TARGET_DIR:-target}/release
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT

cargo build --release --bins
cargo build --release -p myelon-nccl
cargo test --release --no-run --tests --message-format=json >"$messages"

rm -rf "$bundle"
mkdir -p "$bundle/tests"
cp "$release"/myelon-{perf,tune,doctor} "$bundle/"
cp "$release/libmyelon_nccl.so" ci/gpu.sh "$bundle/"
cp -r examples/torch "$bundle/"
ci/install_c.sh --prefix "$bundle/c"
cp examples/c/all_reduce.c "$bundle/c/"
# pytest travels too: the machine may reach no package index. What older Pythons need beside it is named.
mkdir "$bundle/python"
cp -r python/tests python/bench "$bundle/python/"
MYELON_CCL_LIB=$(realpath "$release/libmyelon_ccl.so") python3 -m pip wheel --quiet --no-deps --wheel-dir "$bundle/python/wheels" ./python
python3 -m pip download --quiet --only-binary :all: --dest "$bundle/python/wheels" pytest exceptiongroup tomli typing_extensions
# Cargo puts a hash into the file name of a test; the bundle drops it.
sed -nE 's/.*"target":\{"kind":\["test"\][^}]*"name":"([^"]+)".*"executable":"([^"]+)".*/\1 \2/p' "$messages" |
  while read -r name executable; do cp "$executable" "$bundle/tests/$name"; done
if [[ -d configs ]]; then cp -r configs "$bundle/"; fi
if [[ -d results ]]; then cp -r results "$bundle/"; fi
cp LICENSE-MIT LICENSE-APACHE "$bundle/"
strip "$bundle"/myelon-{perf,tune,doctor} "$bundle"/tests/* 2>/dev/null || echo 'note: strip found nothing to do, or is missing'
{
  echo "commit $(git rev-parse HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ' with changes')"
  rustc --version
} >"$bundle/VERSION"

rm -rf "$destination"
mv "$bundle" "$destination"
echo "bundle in $destination:"
(cd "$destination" && find . -type f -exec ls -s --block-size=1K {} + | sort -k2)
