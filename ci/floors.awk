# Prints each `crate::` path that reaches a floor above its own file, or a sideways import that makes a circle.
# Reads files with comments and strings blanked, src/lib.rs first: its re-exports say where a root name lives.
#
#   awk -v floors=$'lowest modules\nhigher modules' -f floors.awk src/lib.rs src/...

BEGIN {
  count = split(floors, row, "\n")
  for (i = 1; i <= count; i++) {
    size = split(row[i], word, " ")
    for (j = 1; j <= size; j++) level[word[j]] = i
  }
}

FNR == 1 { finish(); file = FILENAME; body = ""; testing = 0; marked = 0 }

# Tests may reach up: what they test them with is not what the module stands on.
{
  if (marked && $0 ~ /^(pub )?mod [a-z_]+ *\{/) testing = 1
  marked = $0 ~ /^#\[cfg\((all\()?test/
  body = body (testing ? "" : $0) "\n"
}

END {
  finish()
  for (edge in sideways) {
    split(edge, pair, SUBSEP)
    if (!((pair[2], pair[1]) in sideways)) continue
    size = split(sideways[edge], place, " ")
    for (i = 1; i <= size; i++)
      print place[i] ": [floors] " pair[1] " and " pair[2] " import each other; keep one direction, move the shared part down"
  }
}

function finish() {
  if (file == "" || file ~ /\/tests(\.rs$|\/)/) return
  own = file
  sub(/^src\//, "", own)
  sub(/(\/.*|\.rs)$/, "", own)
  if (file == "src/lib.rs") { learn_exports(); return }
  if (!(own in level)) {
    print file ":1: [floors] the module " own " has no floor; add it to src_floors in ci/house.sh"
    return
  }
  rest = body
  line = 1
  while (match(rest, /(^|[^A-Za-z0-9_])crate::[ \n]*/)) {
    skipped = substr(rest, 1, RSTART + RLENGTH - 1)
    line += gsub(/\n/, "", skipped)
    rest = substr(rest, RSTART + RLENGTH)
    if (substr(rest, 1, 1) == "{") group(rest, line)
    else if (match(rest, /^[A-Za-z_][A-Za-z0-9_]*/)) reach(substr(rest, 1, RLENGTH), line)
  }
}

# The first name of each item of `{a::b, c::{d, e}}`.
function group(text, at,    i, c, depth, fresh) {
  depth = 0
  for (i = 1; i <= length(text); i++) {
    c = substr(text, i, 1)
    if (c == "{") { depth++; fresh = depth == 1 }
    else if (c == "}") { if (--depth == 0) return }
    else if (c == "," && depth == 1) fresh = 1
    else if (c == "\n") at++
    else if (fresh && depth == 1 && match(substr(text, i), /^[A-Za-z_][A-Za-z0-9_]*/)) {
      reach(substr(text, i, RLENGTH), at)
      i += RLENGTH - 1
      fresh = 0
    }
  }
}

function reach(name, at) {
  if (name in exported) name = exported[name]
  if (name == own) return
  if (!(name in level)) {
    print file ":" at ": [floors] crate::" name " has no floor; name its module, or add the module to src_floors in ci/house.sh"
  } else if (level[name] > level[own]) {
    print file ":" at ": [floors] imports go downwards only, " name " is above " own "; move the shared part down"
  } else if (level[name] == level[own] && level[own] > 1) {
    sideways[own, name] = sideways[own, name] " " file ":" at
  }
}

# `pub use module::{A, B as C};` makes crate::A and crate::C names of that module.
function learn_exports(    text, statement, module, size, item, i) {
  text = body
  while (match(text, /pub use [a-z_]+::[^;]*;/)) {
    statement = substr(text, RSTART + 8, RLENGTH - 9)
    text = substr(text, RSTART + RLENGTH)
    module = statement
    sub(/::.*/, "", module)
    sub(/^[a-z_]+::/, "", statement)
    gsub(/[{}\n]/, " ", statement)
    size = split(statement, item, ",")
    for (i = 1; i <= size; i++) {
      sub(/^.* as /, "", item[i])
      sub(/^.*::/, "", item[i])
      gsub(/ /, "", item[i])
      if (item[i] != "") exported[item[i]] = module
    }
  }
}
