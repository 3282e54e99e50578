#!/usr/bin/env bash
# Conformance and measurements on a machine with several GPUs, from binaries built elsewhere; needs no Rust.
#
#   ci/gpu.sh [BUNDLE]     BUNDLE as ci/build_gpu_bundle.sh made it; default target/gpu-bundle, or the script's own folder
#
# What myelon-doctor finds; the example in C; the fault tests, the litmus and the soak on all GPUs, and a small sweep on two under
# compute-sanitizer where there is one; for every world size from 2 to the number of visible GPUs: conformance, an eager sweep, sweeps
# of graph replays of every collective, of bf16, of odd sizes and into registered memory, PyTorch's all-reduces on symmetric
# memory, the studies of patterns, what waits do to neighbours, overlaps with a product of matrices, and a short sweep under mpirun
# where there is one; and on two GPUs PyTorch over NCCL's stand-in, where there is PyTorch.
# Sweeps are held against the stored ones of such a machine, and auto against the best variant and the baselines (myelon-perf
# compare). Every command has a deadline; one that fails or hangs does not stop the rest. JSON, logs and report.html go to $OUT; a
# summary comes last. Exit status: 0 all well, 1 something failed, 2 nothing to run on.
#
# Environment:
#   OUT=results/new        where results go
#   SIZES="2 4 8"          world sizes; default 2..N
#   DEVICE=cuda            or cpu, to try the script itself without a GPU
#   BEGIN, END, FACTOR, REPEATS, WARMUP     the sweep; default 1K 256M 4 20 5
#   VARIANTS=all           as --variant of myelon-perf, for all-reduces
#   AGAINST                as --against, nccl,nccl_symmetric,mscclpp for all (MYELON_MSCCLPP_LIB names the last, which is left out where
#                          it cannot be measured); unset: myelon-perf's own choice
#   STORED=BUNDLE/results                   earlier sweeps, MACHINE/NAME-RANKS.json; the newest of equal GPUs is the standard
#   THRESHOLD=5 AUTO_WITHIN=3               percent that a row may be slower, and that auto may be behind; not on the CPU
#   OVERLAP_LANES=16,32,64,128              lanes of the variants that are measured beside a product; 2,4 on the CPU
#   ABLATION_SECONDS=300                    time for the studies of one world size; 20 on the CPU
#   TUNE_SECONDS=420                        budget of myelon-tune for one world size, a sweep with its table, and again to judge it; unset: none
#   LITMUS_TRIES=100000000                  messages of each pattern between every two GPUs
#   SOAK_OPERATIONS=1000000 SOAK_SEED=1     random operations, a tenth of them again between processes; 5000 on the CPU
#   PYTHON=python3         the Python that has torch, for the tests of torch.distributed and its benchmark
#   TORCH_RUNS=5           runs of each engine in that benchmark; 0: none
#   TEST_SECONDS=600 SWEEP_SECONDS=600      deadlines
# CUDA_VISIBLE_DEVICES limits the GPUs used. NCCL_NVLS_ENABLE, TORCH_SYMM_MEM_DISABLE_MULTICAST and NVSHMEM_DISABLE_NVLS are
# left as found and reported: they are the machine's, and change what NCCL can do.
set -euo pipefail

own=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -x $own/myelon-perf ]]; then default=$own; else default=$own/../target/gpu-bundle; fi
bundle=${1:-$default}
if [[ ! -x $bundle/myelon-perf ]]; then
  echo "ci/gpu.sh: no myelon-perf in $bundle; make the bundle with ci/build_gpu_bundle.sh" >&2
  exit 2
fi
if [[ ! -f $bundle/VERSION ]]; then
  echo "ci/gpu.sh: no VERSION in $bundle, which is not complete: make it again with ci/build_gpu_bundle.sh" >&2
  exit 2
fi
bundle=$(cd "$bundle" && pwd)

out=${OUT:-results/new}
stored=${STORED:-$bundle/results}
device=${DEVICE:-cuda}
ablation_seconds=${ABLATION_SECONDS:-$([[ $device == cpu ]] && echo 20 || echo 300)}
overlap_lanes=${OVERLAP_LANES:-$([[ $device == cpu ]] && echo 2,4 || echo 16,32,64,128)}
soak_operations=${SOAK_OPERATIONS:-$([[ $device == cpu ]] && echo 5000 || echo 1000000)}
test_seconds=${TEST_SECONDS:-600}
sweep_seconds=${SWEEP_SECONDS:-600}
range=(-b "${BEGIN:-1K}" -e "${END:-256M}")
repeats=(-n "${REPEATS:-20}" -w "${WARMUP:-5}")
against=()
# MSCCL++ is measured for all-reduces of plain buffers only.
against_elsewhere=()
if [[ -n ${AGAINST:-} ]]; then
  against=(--against "$AGAINST")
  rest=$(tr ',' '\n' <<<"$AGAINST" | { grep -vx mscclpp || true; } | paste -sd ,)
  against_elsewhere=(--against "${rest:-none}")
fi
sweep=("${range[@]}" -f "${FACTOR:-4}" "${repeats[@]}" --variant "${VARIANTS:-all}")

# The visible GPUs, as CUDA_VISIBLE_DEVICES names them.
gpus=()
if [[ $device == cpu ]]; then
  gpus=(0 1 2 3)
elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
  IFS=', ' read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
  mapfile -t gpus < <(timeout 60 nvidia-smi --query-gpu=index --format=csv,noheader)
fi
if ((${#gpus[@]} < 2)); then
  echo "ci/gpu.sh: ${#gpus[@]} GPUs visible, at least 2 are needed; check nvidia-smi and CUDA_VISIBLE_DEVICES" >&2
  exit 2
fi

read -r -a sizes <<<"${SIZES:-$(seq -s ' ' 2 "$((${#gpus[@]} < 8 ? ${#gpus[@]} : 8))")}"
for ranks in "${sizes[@]}"; do
  if [[ ! $ranks =~ ^[1-8]$ ]] || ((ranks > ${#gpus[@]})); then
    echo "ci/gpu.sh: SIZES asks for $ranks ranks; ${#gpus[@]} GPUs are visible, and 8 ranks are the most" >&2
    exit 2
  fi
done

mkdir -p "$out/logs"
out=$(cd "$out" && pwd)
cp "$bundle/VERSION" "$out/" 2>/dev/null || true

summary=()
failures=0
results=
table=
judges=
must_say=

# Occurrences of a pattern in a file that may be missing.
count() { { grep -oE "$1" "$2" 2>/dev/null || true; } | wc -l; }

# `step RANKS NAME SECONDS COMMAND...`: runs on the first RANKS GPUs, logs, and notes the outcome. The command is a test binary,
# or with $results set a sweep that writes there, or with $table set a tuner, or with $judges set one whose status is the outcome and
# last line the detail. With $must_say set, its log must have that text.
step() {
  local ranks=$1 name=$2 seconds=$3 start=$SECONDS status=0 verdict=ok detail log
  shift 3
  log=$out/logs/$name-$ranks.log
  local visible
  visible=$(IFS=,; echo "${gpus[*]:0:ranks}")
  printf '==> %s on %s ranks\n' "$name" "$ranks"
  CUDA_VISIBLE_DEVICES=$visible MYELON_TEST_DEVICE=$device MYELON_TEST_RANKS=$ranks \
    timeout --kill-after=15 "$seconds" "$@" >"$log" 2>&1 </dev/null || status=$?
  # A test that ran nothing and a sweep that wrote nothing are failures too, whatever they exited with.
  if [[ -n $results ]]; then
    detail="$(count '"variant"' "$results") rows, $(count '"wrong": *[1-9]' "$results") wrong"
    [[ $detail == [1-9]*' rows, 0 wrong' ]] || verdict=FAIL
  elif [[ -n $table ]]; then
    detail="$(count ', variant = ' "$table") rows"
    [[ $detail == [1-9]* ]] || verdict=FAIL
  elif [[ -n $judges ]]; then
    detail=$(tail -n 1 "$log")
  else
    detail=$(sed -nE 's/^test result: [a-zA-Z]+\. (.*); [0-9]+ measured.*/\1/p' "$log" | tail -n 1)
    [[ $detail == [1-9]*' passed; 0 failed'* ]] || verdict=FAIL
  fi
  if [[ -n $must_say ]] && ! grep -qF "$must_say" "$log"; then verdict=FAIL detail+=", without '$must_say'"; fi
  case $status in
    0) ;;
    124 | 137) verdict=HANG ;;
    *) verdict=FAIL ;;
  esac
  if [[ $verdict != ok ]]; then
    failures=$((failures + 1))
    tail -n 15 "$log" | sed 's/^/    /'
  fi
  summary+=("$(printf '%5s  %-18s %-5s %5d s  %s' "$ranks" "$name" "$verdict" "$((SECONDS - start))" "${detail:-no result}, exit $status")")
}

# `sweep_step RANKS NAME COMMAND...`: a step that writes NAME-RANKS.json.
sweep_step() {
  local ranks=$1 name=$2
  local results=$out/$name-$ranks.json
  shift 2
  rm -f "$results"
  step "$ranks" "$name" "$sweep_seconds" "$@" --json "$results"
}

# `tune_steps RANKS`: writes lanes-RANKS.toml, and holds it against every variant at every power of two, and against every candidate at
# five sizes.
tune_steps() {
  local ranks=$1 tuned=$out/lanes-$1.toml
  local table=$tuned
  rm -f "$tuned"
  step "$ranks" tune "$((TUNE_SECONDS + 180))" "$bundle/myelon-tune" --device "$device" --ranks "$ranks" --budget "$TUNE_SECONDS" -o "$tuned"
  table=
  sweep_step "$ranks" tuned env MYELON_LANE_TABLE="$tuned" "${perf[@]}" --ranks "$ranks" \
    "${range[@]}" -f 2 "${repeats[@]}" "${against[@]}" --variant all -G 20
  judge "$ranks" tuned
  # Times of CPU ranks mean nothing.
  [[ $device != cpu ]] || return 0
  local judges=yes
  step "$ranks" judged "$((TUNE_SECONDS + 180))" "$bundle/myelon-tune" --device "$device" --ranks "$ranks" --budget "$TUNE_SECONDS" \
    --exhaustive -d f32 -b 1K -e 64M -f 16 --judge "$tuned" -o "$out/candidates-$ranks.toml" --json "$out/judge-$ranks.json"
}

# What a results file was measured on: its GPUs by name, number and link.
machine_of() { grep -oE '"gpu":"[^"]*","gpus":[0-9]+,"link":"[^"]*"' "$1" | head -n 1; }

# `stored_of FILE`: the stored sweep of its name from such a machine, the newest of several; nothing where there is none.
stored_of() {
  local file machine newest='' date
  machine=$(machine_of "$1")
  [[ -n $machine ]] || return 0
  for file in "$stored"/*/"${1##*/}"; do
    [[ -e $file && $(machine_of "$file") == "$machine" ]] || continue
    date=$(grep -oE '"date":"[^"]*"' "$file" | head -n 1)
    [[ ! $date\|$file > $newest ]] || newest=$date\|$file
  done
  echo "${newest#*|}"
}

# `compare_stored RANKS NAME`: the sweep NAME against the stored one.
compare_stored() {
  local ranks=$1 name=$2 file=$out/$2-$1.json before judges=yes
  [[ -e $file && $device != cpu ]] || return 0
  before=$(stored_of "$file")
  if [[ -n $before ]]; then
    step "$ranks" "$name-compared" 60 "$bundle/myelon-perf" compare "$before" "$file" --threshold "${THRESHOLD:-5}"
  else
    summary+=("$(printf '%5s  %-18s %s' "$ranks" "$name-compared" "skipped: no such machine in $stored")")
  fi
}

# `judge RANKS NAME`: as `compare_stored`, and auto against what was measured beside it.
judge() {
  local ranks=$1 name=$2 file=$out/$2-$1.json judges=yes
  compare_stored "$ranks" "$name"
  [[ -e $file && $device != cpu ]] || return 0
  step "$ranks" "$name-auto" 60 "$bundle/myelon-perf" compare "$file" --auto-within "${AUTO_WITHIN:-3}"
}

{
  echo "# $(cat "$bundle/VERSION" 2>/dev/null | tr '\n' ' ')"
  echo "# gpus: ${gpus[*]}; world sizes: ${sizes[*]}"
  for name in NCCL_NVLS_ENABLE TORCH_SYMM_MEM_DISABLE_MULTICAST NVSHMEM_DISABLE_NVLS; do echo "# $name=${!name-(unset)}"; done
} | tee "$out/logs/machine.log"
if command -v nvidia-smi >/dev/null; then
  timeout 60 nvidia-smi topo -m >>"$out/logs/machine.log" 2>&1 || true
fi

# What the machine is, before anything is measured on it.
if [[ -x $bundle/myelon-doctor ]]; then
  judges=yes step "${#gpus[@]}" doctor "$test_seconds" "$bundle/myelon-doctor" --device "$device"
  timeout 120 "$bundle/myelon-doctor" --device "$device" --no-trial --json >"$out/doctor.json" </dev/null || true
fi

# Tests that choose their ranks themselves run once, on all GPUs; those that follow the world size run for each.
for test in "$bundle"/tests/*; do
  [[ -x $test ]] || continue
  case ${test##*/} in
    cuda_* | nccl_* | compile_kernels | bootstrap | faults | groups | windows) step "${#gpus[@]}" "${test##*/}" "$test_seconds" "$test" --test-threads=1 ;;
    litmus)
      step "${#gpus[@]}" litmus "$test_seconds" env MYELON_LITMUS_TRIES="${LITMUS_TRIES:-100000000}" MYELON_LITMUS_JSON="$out/litmus.json" \
        "$test" --test-threads=1 --nocapture
      ;;
    soak)
      step "${#gpus[@]}" soak "$test_seconds" env MYELON_SOAK_OPERATIONS="$soak_operations" MYELON_SOAK_SEED="${SOAK_SEED:-1}" \
        MYELON_SOAK_JSON="$out/soak.json" "$test" --test-threads=1 --nocapture
      ;;
  esac
done

# The example in C, built here with the library that was built elsewhere. Its ranks are processes.
if [[ -f $bundle/c/all_reduce.c ]]; then
  ranks=${sizes[-1]} where=GPU cuda=${CUDA_HOME:-/usr/local/cuda}
  build=(cc -std=c11 "$bundle/c/all_reduce.c" -o "$out/all_reduce" -I"$bundle/c/include" -L"$bundle/c/lib" -lmyelon_ccl "-Wl,-rpath,$bundle/c/lib")
  if [[ $device == cpu ]]; then
    where=CPU
  else
    build+=(-DMYELON_EXAMPLE_CUDA -I"$cuda/include" -L"$cuda/lib64" -lcudart "-Wl,-rpath,$cuda/lib64")
  fi
  if ! command -v cc >/dev/null || [[ $device != cpu && ! -f $cuda/include/cuda_runtime_api.h ]]; then
    summary+=("$(printf '%5s  %-18s %s' "$ranks" c "skipped: no cc, or no CUDA runtime in $cuda (CUDA_HOME)")")
  elif ! "${build[@]}" >"$out/logs/c-build.log" 2>&1; then
    failures=$((failures + 1))
    summary+=("$(printf '%5s  %-18s %s' "$ranks" c 'FAIL  does not build: logs/c-build.log')")
  else
    must_say=", 0 wrong (myelon on the $where)"
    judges=yes step "$ranks" c "$test_seconds" "$out/all_reduce" --ranks "$ranks"
    must_say=
  fi
fi

# torch.distributed over Myelon. Packages go to a folder of their own: the machine's Python stays as it is.
python=${PYTHON:-python3}
if [[ ! -d $bundle/python ]] || ! "$python" -c 'import torch' 2>/dev/null; then
  summary+=("$(printf '%5s  %-18s %s' 2 torch-backend "skipped: no python/ in the bundle, or $python has no torch")")
elif ! "$python" -m pip install --quiet --no-index --find-links "$bundle/python/wheels" --upgrade --target "$out/python" myelon-ccl pytest \
  >"$out/logs/torch-install.log" 2>&1; then
  failures=$((failures + 1))
  summary+=("$(printf '%5s  %-18s %s' 2 torch-backend 'FAIL  does not install: logs/torch-install.log')")
else
  must_say=' passed'
  judges=yes step "${#gpus[@]}" torch-backend "$test_seconds" env PYTHONPATH="$out/python" "$python" -m pytest -q -p no:cacheprovider "$bundle/python/tests"
  must_say=
  if [[ ${TORCH_RUNS:-5} != 0 && $device != cpu ]]; then
    for ranks in "${sizes[@]}"; do
      judges=yes step "$ranks" torch-bench "$sweep_seconds" env PYTHONPATH="$out/python" "$python" "$bundle/python/bench/run.py" --ranks "$ranks" \
        --results "$out" --runs "${TORCH_RUNS:-5}" --commit "$(sed -n 's/^commit //p' "$bundle/VERSION")" \
        --source-hash "$(sed -nE 's/.*"source_hash": *"([0-9a-f]+)".*/\1/p' "$out/doctor.json" | head -n 1)" --preload "$bundle/libmyelon_nccl.so"
    done
  fi
  # PyTorch's own all-reduces on symmetric memory, where it has them.
  if [[ $device != cpu ]] && "$python" -c 'import torch; torch.ops.symm_mem.two_shot_all_reduce_' 2>/dev/null; then
    for ranks in "${sizes[@]}"; do
      judges=yes step "$ranks" symm_mem "$sweep_seconds" "$python" -m torch.distributed.run --standalone --nproc-per-node "$ranks" \
        "$bundle/python/bench/symm_mem.py" --output "$out/symm_mem-$ranks.json"
    done
  fi
fi

perf=("$bundle/myelon-perf" --device "$device")

# One process, for the tool follows one. Kernels are far slower under it, and so are waits for them.
for tool in memcheck synccheck; do
  if command -v compute-sanitizer >/dev/null; then
    must_say='ERROR SUMMARY: 0 errors'
    sweep_step 2 "$tool" env MYELON_TIMEOUT=300 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "${perf[@]}" --ranks 2 --threads -b 1K -e 64K -f 64 -n 1 -w 0 --variant all --against none
    must_say=
  else
    summary+=("$(printf '%5s  %-18s %s' 2 "$tool" 'skipped: no compute-sanitizer on PATH')")
  fi
done
for ranks in "${sizes[@]}"; do
  for test in conformance collectives; do
    if [[ -x $bundle/tests/$test ]]; then
      step "$ranks" "$test" "$test_seconds" "$bundle/tests/$test" --test-threads=1
    else
      summary+=("$(printf '%5s  %-18s %s' "$ranks" "$test" 'skipped: not in the bundle')")
    fi
  done
  sweep_step "$ranks" eager "${perf[@]}" --ranks "$ranks" "${sweep[@]}" "${against[@]}"
  sweep_step "$ranks" graph "${perf[@]}" --ranks "$ranks" "${sweep[@]}" "${against[@]}" -G 20
  sweep_step "$ranks" between "${perf[@]}" --ranks "$ranks" "${sweep[@]}" "${against[@]}" -G 20 --between
  sweep_step "$ranks" registered "${perf[@]}" --ranks "$ranks" "${sweep[@]}" "${against_elsewhere[@]}" -G 4 --registered
  judge "$ranks" eager
  judge "$ranks" graph
  # What auto takes between the sizes of those sweeps, at sizes that no power of two divides, and in half of the bytes.
  auto=("${perf[@]}" --ranks "$ranks" "${repeats[@]}" -G 20 --variant auto)
  sweep_step "$ranks" fine "${auto[@]}" "${range[@]}" -f 2 --against none
  sweep_step "$ranks" bf16 "${auto[@]}" "${range[@]}" -f 4 "${against[@]}" -d bf16
  # Of many bytes, for a CPU.
  [[ $device == cpu ]] || sweep_step "$ranks" odd "${auto[@]}" -b 300004 -e 76801024 -f 4 "${against[@]}" -d f32,i32
  for name in between registered fine bf16 odd; do compare_stored "$ranks" "$name"; done
  for collective in reduce_scatter all_gather broadcast; do
    sweep_step "$ranks" "$collective" "${perf[@]}" --ranks "$ranks" "${range[@]}" -f "${FACTOR:-4}" "${repeats[@]}" \
      "${against_elsewhere[@]}" --variant all -G 20 --collective "$collective"
    compare_stored "$ranks" "$collective"
  done
  [[ -z ${TUNE_SECONDS:-} ]] || tune_steps "$ranks"
  sweep_step "$ranks" ablation "${perf[@]}" --ranks "$ranks" --ablate --budget "$ablation_seconds"
  sweep_step "$ranks" neighbour "$bundle/myelon-perf" neighbour --device "$device" --ranks "$ranks"
  sweep_step "$ranks" overlap "${perf[@]}" --ranks "$ranks" --overlap -n 10 -w 2 --lanes "$overlap_lanes" \
    --variant auto,ring,ring_specialized,ring_copy_engine,two_shot_push
  if command -v mpirun >/dev/null; then
    sweep_step "$ranks" mpirun mpirun --allow-run-as-root --oversubscribe -np "$ranks" "${perf[@]}" -b 1K -e 1M -f 32 -n 5 -w 2 \
      "${against[@]}" --variant all
  else
    summary+=("$(printf '%5s  %-18s %s' "$ranks" mpirun 'skipped: no mpirun here')")
  fi
done

# NCCL's stand-in under PyTorch, beside plain NCCL.
if [[ $device == cpu || ! -e $bundle/libmyelon_nccl.so ]] || ! timeout 120 "$python" -c 'import torch' 2>/dev/null; then
  summary+=("$(printf '%5s  %-18s %s' 2 torch 'skipped: needs GPUs, libmyelon_nccl.so in the bundle, and PyTorch')")
else
  backend=()
  [[ -d $out/python ]] || backend=(--without-backend)
  judges=yes step 2 torch "$((2 * test_seconds))" env PYTHONPATH="$out/python" "$python" "$bundle/torch/compare.py" "${backend[@]}" \
    "$bundle/libmyelon_nccl.so"
fi

# The sweeps as a page for a browser; without one there is nothing to show. But for those that measure something else under a name that
# others have: with another table, under another tool, or a few repeats only.
pages=()
for file in "$out"/*.json; do
  case ${file##*/} in
    tuned-* | memcheck-* | synccheck-* | mpirun-*) ;;
    *) pages+=("$file") ;;
  esac
done
timeout 60 "$bundle/myelon-perf" report "${pages[@]}" -o "$out/report.html" >"$out/logs/report.log" 2>&1 || true

printf '\n%5s  %-18s %-5s %7s  %s\n' ranks step state time detail
printf '%s\n' "${summary[@]}"
echo "results in $out; $failures of ${#summary[@]} steps failed"
((failures == 0))
