# Prints file:line of each asm statement whose instruction matches `ordering`, without a "memory" clobber.
# Reads files whose comments are blanked. A statement ends with the bracket that closes it, outside strings.

FNR == 1 { inside = 0 }

{
  size = length($0)
  for (i = 1; i <= size; i++) {
    c = substr($0, i, 1)
    if (!inside) {
      before = i > 1 ? substr($0, i - 1, 1) : " "
      if (before !~ /[A-Za-z0-9_]/ && match(substr($0, i), /^(asm|__asm__|__asm)([^A-Za-z0-9_]|$)/)) {
        inside = 1; depth = 0; quoted = 0; statement = ""; start = FNR
      }
    }
    if (inside) {
      statement = statement c
      if (quoted) {
        if (c == "\\") { i++; statement = statement substr($0, i, 1) }
        else if (c == "\"") quoted = 0
      } else if (c == "\"") quoted = 1
      else if (c == "(") depth++
      else if (c == ")" && --depth == 0) {
        inside = 0
        if (statement ~ ordering && statement !~ /"memory"/) print FILENAME ":" start ":"
      }
    }
  }
}
