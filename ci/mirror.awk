# Writes each source file twice, line for line: to `text` with comments blanked, to `code` with the contents
# of string literals blanked as well. Knows Rust and C++; a Rust string may span lines, a C++ one may not.
#
#   awk -v text=DIR/ -v code=DIR/ -f mirror.awk FILE...

FNR == 1 {
  if (text_file != "") { close(text_file); close(code_file) }
  text_file = text FILENAME
  code_file = code FILENAME
  rust = FILENAME ~ /\.rs$/
  state = "code" # or "block" (comment), "string", "raw" (string that ends with `fence`)
}

{
  with_strings = ""
  without = ""
  size = length($0)
  for (i = 1; i <= size; i++) {
    c = substr($0, i, 1)
    two = substr($0, i, 2)
    if (state == "block") {
      if (two == "*/") { state = "code"; i++ }
    } else if (state == "raw") {
      if (substr($0, i, length(fence)) == fence) {
        state = "code"
        i += length(fence) - 1
        with_strings = with_strings fence
        without = without fence
      } else with_strings = with_strings c
    } else if (state == "string") {
      with_strings = with_strings c
      if (c == "\\") { i++; with_strings = with_strings substr($0, i, 1) }
      else if (c == "\"") { state = "code"; without = without c }
    } else if (two == "//") {
      break
    } else if (two == "/*") {
      state = "block"
      i++
    } else if (c == "'" && match(substr($0, i), /^'(\\.|[^\\'])'/)) {
      with_strings = with_strings substr($0, i, RLENGTH)
      without = without "' '"
      i += RLENGTH - 1
    } else if (c == "\"") {
      state = "string"
      # R"( opens a raw string in C++, r" and r#" in Rust.
      if (!rust && without ~ /R$/ && substr($0, i, 2) == "\"(") { state = "raw"; fence = ")\"" }
      else if (rust && match(without, /(^|[^A-Za-z0-9_])b?r#*$/)) {
        state = "raw"
        opening = substr(without, RSTART)
        gsub(/[^#]/, "", opening)
        fence = "\"" opening
      }
      with_strings = with_strings c
      without = without c
    } else {
      with_strings = with_strings c
      without = without c
    }
  }
  if (state == "string" && !rust) state = "code"
  print with_strings > text_file
  print without > code_file
}
