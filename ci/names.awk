# Prints file:line of each function of cuda/ptx whose instruction lacks an order or a scope that its name has.
# Reads files whose comments are blanked.

function check(  count, word, i) {
  gsub(/acq_rel/, "acqrel", name); gsub(/acq_rel/, "acqrel", body)
  count = split(name, word, "_")
  for (i = 1; i <= count; i++)
    if (word[i] ~ /^(relaxed|acquire|release|acqrel|cta|cluster|gpu|sys)$/ && body ~ /asm/ && body !~ ("[.:]" word[i] "[^a-z]"))
      print place ":" word[i]
}
FNR == 1 { check(); name = body = "" }
/MYELON_DEVICE/ && /[(]/ {
  check()
  place = FILENAME ":" FNR; body = ""; name = $0
  sub(/[(].*/, "", name); sub(/.*[^A-Za-z0-9_]/, "", name)
}
{ body = body " " $0 }
END { check() }
