# The ordered and synchronising calls of the kernels, from the tags in their comments.
#
#   awk -v ordering=REGEX -f ci/census.awk cuda/ptx/*.cuh OTHER...      a line for each tag, separated by tabs:
#       file, place, primitives called (none: an end without a call), ids, category, why
#   awk -v findings=1 ...                                               calls without a tag, and tags that do not parse
#
# A primitive is a function of cuda/ptx whose instruction matches `ordering`, or is a barrier or vote by intrinsic. A tag,
#   // ORDER: [id] [id] category: why, over as many lines as it takes
# stands right above the statement that calls one. It covers that statement, and those directly below that call the same.

BEGIN {
  split("load-sync reuse publish consume credit epoch", word, " ")
  for (i in word) category_is_known[word[i]] = 1
  ordering = ordering "|__(sync|shfl|ballot|any|all)"
}

function say(line, what) { if (findings) print FILENAME ":" line ": [barriers] " what }

# The name before the first bracket of a definition.
function defined(code) {
  sub(/pub\([a-z:]*\)/, "pub", code)
  sub(/\(.*/, "", code)
  sub(/^.*[^A-Za-z0-9_]/, "", code)
  return code
}

# Ends the tag at hand, if there is one.
function close_tag() {
  if (tag_line) {
    if (!findings) printf "%s\t%s\t%s\t%s\t%s\t%s\n", tag_file, tag_place, tag_calls, tag_ids, tag_category, tag_why
    tag_line = 0
  }
}

function open_tag(comment) {
  close_tag()
  tag_line = FNR; tag_file = FILENAME; tag_place = place; tag_calls = tag_ids = tag_why = ""; tag_state = "comment"; tag_is_over = 0
  sub(/^ORDER: */, "", comment)
  while (match(comment, /^\[[a-z-]+\] */)) {
    tag_ids = tag_ids (tag_ids == "" ? "" : " ") substr(comment, 2, index(comment, "]") - 2)
    comment = substr(comment, RLENGTH + 1)
  }
  tag_category = comment
  sub(/:.*/, "", tag_category)
  if (!(tag_category in category_is_known) || index(comment, ":") == 0) {
    say(FNR, "a tag reads `ORDER: [id] category: why`, with load-sync, reuse, publish, consume, credit or epoch; write it so")
    tag_category = ""
  }
  tag_why = comment
  sub(/^[a-z-]*: */, "", tag_why)
}

FNR == 1 { close_tag(); class = place = "" }

# The primitives: what a function of cuda/ptx is made of stands between its name and the next one's.
FILENAME ~ /^cuda\/ptx\// {
  sub(/\/\/.*/, "")
  if (/MYELON_DEVICE/ && /\(/) name = defined($0)
  if (name != "" && match($0, ordering)) primitives[name] = 1
  next
}

# A comment.
/^[ \t]*\/\// {
  comment = $0
  sub(/^[ \t]*\/\/+!? */, "", comment)
  if (comment ~ /^ORDER: *\[/) open_tag(comment)
  else if (tag_line && tag_state == "comment") {
    # Another tag of the same statement.
    if (comment ~ /^[A-Z]+: /) tag_is_over = 1
    if (!tag_is_over) tag_why = tag_why " " comment
  }
  else close_tag()
  next
}

/^[ \t]*$/ { close_tag(); next }

{
  code = $0
  sub(/\/\/.*/, "", code)
  if (code ~ /^(class|struct) /) { class = code; sub(/^(class|struct) /, "", class); sub(/[^A-Za-z0-9_].*/, "", class) }
  else if (code ~ /^impl[ <]/) { class = code; sub(/ *\{.*/, "", class); sub(/.* /, "", class) }
  else if (code ~ /^}/) class = ""
  if ((code ~ /MYELON_DEVICE/ || code ~ /(^|[ \t])fn /) && code ~ /\(/) {
    place = (class == "" ? "" : class "::") defined(code)
    # A tag above a definition is one inside it.
    if (tag_line && tag_state == "comment") tag_place = place
  }

  called = ""
  rest = code
  while (match(rest, /[A-Za-z_][A-Za-z0-9_]*[ \t]*(<[^<>;()]*>)?\(/)) {
    name = substr(rest, RSTART, RLENGTH)
    sub(/[ \t]*[<(].*/, "", name)
    rest = substr(rest, RSTART + RLENGTH)
    if (name in primitives && index(" " called " ", " " name " ") == 0) called = called (called == "" ? "" : " ") name
  }

  # Behind its statement a tag goes on only over calls of the same primitives.
  if (tag_line && tag_state == "behind" && (called == "" || called != tag_calls)) close_tag()
  if (!tag_line) {
    count = split(called, word, " ")
    for (i = 1; i <= count; i++) say(FNR, word[i] " orders or waits; say right above it `ORDER: [id] category: why` (CONTRIBUTING.md)")
    next
  }
  if (tag_state != "behind") {
    count = split(called, word, " ")
    for (i = 1; i <= count; i++)
      if (index(" " tag_calls " ", " " word[i] " ") == 0) tag_calls = tag_calls (tag_calls == "" ? "" : " ") word[i]
    tag_state = code ~ /;/ || code ~ /}[ \t]*$/ ? "behind" : "statement"
  }
}

END { close_tag() }
