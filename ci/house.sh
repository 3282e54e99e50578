#!/usr/bin/env bash
# The house rules that no compiler checks. Every finding is one line: file:line, the rule, the fix.
#
#   ci/house.sh               check this tree
#   ci/house.sh --self-test   plant one violation of each rule in a copy of the tree and see each one found
#   ci/house.sh --list        the rules
#   ci/house.sh --census      the ordered and synchronising calls of the kernels, as ci/census.awk prints them
#
# The rules work on two mirrors of the sources made by ci/mirror.awk, line for line: `text` has comments
# blanked, `code` has the contents of strings blanked as well. So prose may say what code must not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$PWD

rules=(asm clobber names includes variant_size order_pairs barriers ring_words placeholders file_size driver floors)

# Floors of cuda/, lowest first. Folders on one line stand beside each other.
cuda_floors='abi.cuh
ptx cpu
base
reduce
sync
proto
algo verify'

# Floors of src/, lowest first. Modules on one line may import each other one way; the lowest ones freely.
src_floors='types error abi log_filter
device variant table measure
bootstrap
memory watch study verify
baseline
comm
lib'

# Instructions that order memory, poll it or wait.
ordering='[.](relaxed|acquire|release|acq_rel|sc|volatile)[^a-z_]|(fence|membar|barrier|mbarrier|griddepcontrol)[^a-z_]'
ordering+='|bar[.]|cp[.]async|cp[.]reduce'

variant_lines=200
file_lines_warn=350
file_lines_fail=450

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Files below the given folders of $tree with one of the given endings: `sources "cuda src" "cuh rs"`.
sources() {
  local folder ending
  for folder in $1; do
    [[ -d $tree/$folder ]] || continue
    for ending in $2; do
      (cd "$tree" && find "$folder" -type f -name "*.$ending")
    done
  done | sort
}

# Reads `file:line:...` and prints it as a finding.
findings() {
  local rule=$1 fix=$2
  sed -E "s|^([^:]+:[0-9]+):.*|\1: [$rule] $fix|"
}

# Greps a mirror: `mirror_grep MIRROR FOLDERS PATTERN [FOLDERS LEFT OUT]`.
mirror_grep() {
  local left_out=${4:-/} folder folders=()
  for folder in $2; do [[ ! -d $scratch/$1/$folder ]] || folders+=("$folder"); done
  ((${#folders[@]})) || return 0
  (cd "$scratch/$1" && { grep -rnE "$3" "${folders[@]}" || true; }) | grep -vE "^($left_out)" || true
}

rule_asm() {
  mirror_grep code "cuda" '(^|[^A-Za-z0-9_])(asm|__asm|__asm__)([^A-Za-z0-9_]|$)' 'cuda/ptx/|cuda/cpu/' |
    findings asm 'raw asm stands in cuda/ptx only; give the instruction a named function there and call it'
}

rule_clobber() {
  [[ -d $scratch/text/cuda/ptx ]] || return 0
  (cd "$scratch/text" && find cuda/ptx -type f | sort | xargs -r awk -v ordering="$ordering" -f "$here/ci/clobber.awk") |
    findings clobber 'an ordered asm without a "memory" clobber lets the compiler move accesses across it; add the clobber'
}

# What a function of cuda/ptx is called is all that a reader of the kernels sees, and the CPU has one scope for all.
rule_names() {
  [[ -d $scratch/text/cuda/ptx ]] || return 0
  (cd "$scratch/text" && find cuda/ptx -type f | sort | xargs -r awk -f "$here/ci/names.awk") |
    findings names 'the instruction is not what the name says, in order or scope; correct one of them'
}

rule_includes() {
  mirror_grep text "cuda" '^[[:space:]]*#[[:space:]]*include' |
    awk -F: -v floors="$cuda_floors" -v tree="$tree" '
      BEGIN {
        count = split(floors, line, "\n")
        for (i = 1; i <= count; i++) { n = split(line[i], word, " "); for (j = 1; j <= n; j++) level[word[j]] = i }
      }
      function folder(path) { sub(/\/.*/, "", path); return path }
      function say(what) { print $1 ":" $2 ": [includes] " what }
      {
        own = $1; sub(/^cuda\//, "", own); own = folder(own)
        if ($0 ~ /#[ \t]*include[ \t]*</) {
          if (own != "cpu") say("the run-time compiler has no standard headers; write what is needed in cuda/base")
          next
        }
        name = $0; sub(/^[^"]*"/, "", name); sub(/".*/, "", name)
        other = folder(name)
        if (!(own in level)) say("the folder cuda/" own " has no floor; add it to cuda_floors in ci/house.sh")
        else if (name ~ /^\./ || !(other in level)) say("\"" name "\" is not a path from cuda/; write the path from there")
        else if ((getline unused < (tree "/cuda/" name)) < 0) say("cuda/" name " does not exist; correct the path")
        else if (level[other] > level[own]) say("includes go downwards only, " other " is above " own "; move the shared part down")
        close(tree "/cuda/" name)
      }'
}

rule_variant_size() {
  local file lines
  while read -r file; do
    lines=$(wc -l <"$tree/$file")
    ((lines <= variant_lines)) ||
      echo "$file:$lines: [variant_size] a variant has $variant_lines lines or less; move shared steps down to cuda/proto or cuda/sync"
  done < <(sources "cuda/algo" "cuh cu")
}

# The tags are comments, so this rule reads the sources themselves.
rule_order_pairs() {
  (cd "$tree" && sources "cuda src" "cuh cu h rs" | xargs -r grep -nHoE 'ORDER: *(\[[^]]+\][ ,]*)+' || true) |
    awk -F: '
      {
        tags = $0
        while (match(tags, /\[[^]]+\]/)) {
          id = substr(tags, RSTART, RLENGTH); tags = substr(tags, RSTART + RLENGTH)
          if (!((id, $1, $2) in seen)) { seen[id, $1, $2] = 1; ends[id]++; place[id] = $1 ":" $2 }
        }
      }
      END {
        for (id in ends) if (ends[id] < 2)
          print place[id] ": [order_pairs] " id " stands only here; tag the other end of the pair with ORDER: " id " too"
      }' | sort
}

# `census [findings]`: ci/census.awk over the tree. It reads comments, so the sources themselves.
census() {
  [[ -d $tree/cuda/ptx ]] || return 0
  { sources "cuda/ptx" "cuh"; sources "cuda src" "cuh rs" | grep -vE '^cuda/(ptx|cpu)/'; } |
    (cd "$tree" && xargs awk -v ordering="$ordering" -v findings="${1:+1}" -f "$here/ci/census.awk")
}

rule_barriers() { census findings; }

rule_ring_words() {
  (cd "$tree" && sources "cuda" "cuh cu h cc cpp" | xargs -r grep -nHE '(^|[^A-Za-z])([Hh]ead|[Tt]ail)s?([^a-z]|$)|[a-z](Head|Tail)([^a-z]|$)' || true) |
    findings ring_words 'head and tail mean opposite things to different readers; say sequence, gating sequence or slot (docs/GLOSSARY.md), or rest of a message'
}

rule_placeholders() {
  # The brackets keep this line from finding itself.
  (cd "$tree" && sources "src bin cuda crates include tests benches examples ci docs configs" "rs cuh cu c cc h sh awk md toml" |
    xargs -r grep -nHE '(^|[^A-Za-z])(TO[D]O|FIX[M]E)([^A-Za-z]|$)|(to[d]o|unimplemente[d])!\(' || true) |
    findings placeholders 'nothing half done is kept; finish it, or return Error::Unsupported and say so in the docs'
}

rule_file_size() {
  local file lines
  while read -r file; do
    lines=$(wc -l <"$tree/$file")
    if ((lines > file_lines_fail)); then
      echo "$file:$lines: [file_size] more than $file_lines_fail lines; split it by concept"
    elif ((lines > file_lines_warn)); then
      echo "warning: $file:$lines: [file_size] more than $file_lines_warn lines; consider a split by concept"
    fi
  done < <(sources "src bin crates" "rs")
}

rule_driver() {
  mirror_grep code "src bin" '(^|[^A-Za-z0-9_])sys::(cu|nccl|nvrtc|lib *\()|cudarc::(driver|nccl|nvrtc)::sys' \
    'src/device/|src/memory/|src/baseline/|src/memory\.rs|src/baseline\.rs' |
    findings driver 'raw driver calls stand in src/device, src/memory and src/baseline only; go through the Device trait'
}

rule_floors() {
  [[ -f $scratch/code/src/lib.rs ]] || return 0
  (cd "$scratch/code" && { echo src/lib.rs; sources "src" "rs" | grep -v '^src/lib\.rs$' || true; } |
    xargs awk -v floors="$src_floors" -f "$here/ci/floors.awk")
}

# Makes both mirrors of $tree.
make_mirrors() {
  rm -rf "$scratch/text" "$scratch/code"
  mirrored >"$scratch/files"
  mirror <"$scratch/files"
}

# The files of $tree that have mirrors.
mirrored() { sources "src bin cuda" "rs cuh cu h cc cpp"; }

# Mirrors the files that standard input names.
mirror() {
  local file names=()
  while read -r file; do
    names+=("$file")
    mkdir -p "$scratch/text/${file%/*}" "$scratch/code/${file%/*}"
    # awk never sees an empty file, and the rules expect every file in the mirrors.
    touch "$scratch/text/$file" "$scratch/code/$file"
  done
  ((${#names[@]} == 0)) ||
    (cd "$tree" && printf '%s\n' "${names[@]}" | xargs awk -v text="$scratch/text/" -v code="$scratch/code/" -f "$here/ci/mirror.awk")
}

check_tree() {
  tree=$here
  make_mirrors
  local rule found=0 output
  for rule in "${rules[@]}"; do
    output=$("rule_$rule")
    [[ -z $output ]] || echo "$output"
    found=$((found + $(grep -cvE '^(warning: .*)?$' <<<"$output" || true)))
  done
  echo "house: ${#rules[@]} rules over $(wc -l <"$scratch/files") files, $found findings"
  ((found == 0))
}

# `plant RULE FILE LINE`, contents on standard input: the rule must report FILE at LINE; `-` for "must stay silent about it".
planted=0
missed=0
plant() {
  local rule=$1 file=$2 line=$3 output
  mkdir -p "$tree/${file%/*}"
  [[ ! -e $tree/$file ]] || cp "$tree/$file" "$scratch/kept"
  cat >"$tree/$file"
  mirror_again "$file"
  output=$("rule_$rule" | grep -F "$file:" || true)
  planted=$((planted + 1))
  if [[ $line == - && -n $output ]]; then
    missed=$((missed + 1))
    echo "self-test: $rule: found what is allowed: $output"
  elif [[ $line != - && $output != *"$file:$line: [$rule]"* ]]; then
    missed=$((missed + 1))
    echo "self-test: $rule: did not find the violation at $file:$line, said: ${output:-nothing}"
  fi
  rm "$tree/$file"
  [[ ! -e $scratch/kept ]] || mv "$scratch/kept" "$tree/$file"
  mirror_again "$file"
}

# Brings the mirrors of one file up to date: of all, each time, is most of what the self-test would take.
mirror_again() {
  rm -f "$scratch/text/$1" "$scratch/code/$1"
  mirrored >"$scratch/files"
  { grep -Fx "$1" "$scratch/files" || true; } | mirror
}

self_test() {
  tree=$scratch/tree
  mkdir -p "$tree"
  local folder
  for folder in src bin cuda; do [[ ! -d $folder ]] || cp -r "$folder" "$tree/"; done
  make_mirrors
  # shellcheck source=ci/house_plants.sh
  source "$here/ci/house_plants.sh"
  echo "house self-test: $((planted - missed)) of $planted plants behaved"
  ((missed == 0))
}

case ${1-} in
  '') check_tree ;;
  --self-test) self_test ;;
  --census) tree=$here && census ;;
  --list) printf '%s\n' "${rules[@]}" ;;
  *)
    echo "ci/house.sh: unknown argument '$1'; use no argument, --self-test, --census or --list" >&2
    exit 2
    ;;
esac
