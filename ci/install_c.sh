#!/usr/bin/env bash
# Builds the C library and installs it, its header and its pkg-config file.
#
#   ci/install_c.sh --prefix DIR [--library FILE]       FILE: a libmyelon_ccl.so that is built already
#
# DESTDIR, where it is set, stands before DIR: for packages. The tree can be moved as a whole: its pkg-config file finds
# itself. A compiler finds it by PKG_CONFIG_PATH=DIR/lib/pkgconfig, a program by LD_LIBRARY_PATH=DIR/lib or an rpath, unless
# DIR is where the system looks.
set -euo pipefail

usage() { echo "usage: ci/install_c.sh --prefix DIR [--library FILE]${1:+: $1}" >&2; exit 2; }

prefix='' library=''
while (($#)); do
  (($# > 1)) || usage "$1 needs a value"
  case $1 in
    --prefix) prefix=$2 ;;
    --library) library=$(realpath "$2") ;;
    *) usage "unknown argument $1" ;;
  esac
  shift 2
done
[[ -n $prefix ]] || usage '--prefix is missing'
# From where the caller stands, not from here.
root=${DESTDIR:-}$(realpath -m "$prefix")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z $library ]]; then
  "${CARGO:-cargo}" build --quiet --package myelon-c --release
  library=${CARGO_TARGET_DIR:-target}/release/libmyelon_ccl.so
fi

version=$(sed -nE '/^\[workspace.package\]/,/^\[/s/^version = "([^"]+)"$/\1/p' Cargo.toml)
soname=$(sed -nE 's/.*-soname,(libmyelon_ccl\.so\.[0-9]+)".*/\1/p' crates/myelon-c/build.rs)
[[ -n $version && -n $soname ]] || { echo 'ci/install_c.sh: found no version or no SONAME' >&2; exit 1; }

mkdir -p "$root/lib/pkgconfig" "$root/include"
install -m 755 "$library" "$root/lib/libmyelon_ccl.so.$version"
ln -sfn "libmyelon_ccl.so.$version" "$root/lib/$soname"
ln -sfn "$soname" "$root/lib/libmyelon_ccl.so"
install -m 644 include/myelon.h "$root/include/myelon.h"
cat >"$root/lib/pkgconfig/myelon-ccl.pc" <<EOF
prefix=\${pcfiledir}/../..
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: myelon-ccl
Description: All-reduce and other collectives over the GPUs of one node
Version: $version
Libs: -L\${libdir} -lmyelon_ccl
Cflags: -I\${includedir}
EOF
echo "installed libmyelon_ccl $version in $root"
