# shellcheck shell=bash
# Violations for `ci/house.sh --self-test`, and near misses that must not be found. Sourced, in the copy of the tree.

plant asm cuda/base/planted.cuh 2 <<'END'
// asm in prose is fine
inline void nap() { asm volatile("nanosleep.u32 20;"); }
END
plant asm cuda/base/planted.cuh - <<'END'
/* asm volatile("") */ // asm("")
inline const char* name() { return "asm"; }
END

plant clobber cuda/ptx/planted.cuh 2 <<'END'
inline void weak(u64* a, u64 v) { asm volatile("st.global.u64 [%0], %1;" ::"l"(a), "l"(v)); }
inline void st_release(u64* a, u64 v) { asm volatile("st.release.sys.global.u64 [%0], %1;"
                                                     ::"l"(a), "l"(v)); }  // "memory"
END
plant clobber cuda/ptx/planted.cuh - <<'END'
inline void fence() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }
END

plant names cuda/ptx/planted.cuh 2 <<'END'
MYELON_DEVICE void st_relaxed_sys(u64* a) { asm volatile("st.relaxed.sys.global.u64 [%0], 1;" ::"l"(a) : "memory"); }
MYELON_DEVICE void st_release_sys(u64* a) {
  asm volatile("st.release.gpu.global.u64 [%0], 1;" ::"l"(a) : "memory");
}
END
plant names cuda/ptx/planted.cuh 1 <<'END'
MYELON_DEVICE u32 add_acq_rel_gpu(u32* a) { asm volatile("red.add.relaxed.gpu.global.u32 [%0], 1;" ::"l"(a) : "memory"); }
END
plant names cuda/ptx/planted.cuh - <<'END'
MYELON_DEVICE void fence_acq_rel_sys() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }
MYELON_DEVICE void sync_cta() { __syncthreads(); }
END

plant includes cuda/base/planted.cuh 1 <<'END'
#include "abi_misspelt.cuh"
END
plant includes cuda/reduce/planted.cuh 1 <<'END'
#include "base/nowhere.cuh"
END
mkdir -p "${tree:?set by ci/house.sh}/cuda/verify" && touch "$tree/cuda/verify/above.cuh"
plant includes cuda/sync/planted.cuh 1 <<'END'
#include "verify/above.cuh"
END
plant includes cuda/verify/planted.cuh - <<'END'
#include "verify/above.cuh"
END
plant includes cuda/reduce/planted.cuh 1 <<'END'
#include <stdint.h>
END
plant includes cuda/cpu/planted.h - <<'END'
#include <stdint.h>
END
plant includes cuda/reduce/planted.cuh 1 <<'END'
#include "../abi.cuh"
END

plant variant_size cuda/algo/planted.cuh 201 < <(yes '// line' | head -201)
plant variant_size cuda/algo/planted.cuh - < <(yes '// line' | head -200)

plant order_pairs cuda/sync/planted.cuh 1 <<'END'
// ORDER: [planted-publish] release.sys; pairs nothing
END
plant order_pairs cuda/sync/planted.cuh 2 <<'END'
// ORDER: [planted-publish] release.sys
// ORDER: [planted-publish] [planted-credit] acquire.sys
END
plant order_pairs cuda/sync/planted.cuh - <<'END'
// ORDER: [planted-publish] release.sys; pairs acquire.sys in wait
// ORDER: [planted-publish] acquire.sys; pairs release.sys in publish
END

plant barriers cuda/sync/planted.cuh 1 <<'END'
MYELON_DEVICE void meet() { sync_cta(); }
END
plant barriers cuda/proto/planted.cuh 4 <<'END'
MYELON_DEVICE void publish(u64* a) {
  // ORDER: [planted] publish: everything before it.
  st_release_sys(a, 1);
  fence_acq_rel_sys();
}
END
plant barriers cuda/algo/planted.cuh 4 <<'END'
// ORDER: [planted] load-sync: a tag covers one statement.

template <u32 kPending>
MYELON_DEVICE void wait() { cp_async_wait<kPending>(); }
END
plant barriers cuda/sync/planted.cuh 1 <<'END'
// ORDER: [planted] barrier: no category.
MYELON_DEVICE void meet() { sync_cta(); }
END
plant barriers src/planted.rs 1 <<'END'
// ORDER: [planted] the kernel's end of it
END
plant barriers cuda/verify/planted.cuh - <<'END'
// ORDER: [planted] [other] load-sync: all threads have stored,
// st_release_sys() and sync_cta() in prose included.
MYELON_DEVICE void clear(u64* a) {
  // ORDER: [planted] reuse: twice the same.
  st_relaxed_sys(a, 0);
  st_relaxed_sys(a + 1, 0);
  my_sync_cta();
}
END

plant ring_words cuda/proto/planted.cuh 1 <<'END'
u64 ring_head;
END
plant ring_words cuda/proto/planted.cuh 1 <<'END'
u64 cachedTail = 0;
END
plant ring_words cuda/proto/planted.cuh - <<'END'
// overhead ahead of the header, in detail
u64 header;
END

plant placeholders src/planted.rs 2 < <(printf 'fn f() {\n    %s!()\n}\n' 'todo')
plant placeholders cuda/base/planted.cuh 1 < <(printf '// %s%s: later\n' TO DO)
plant placeholders src/planted.rs - <<'END'
// what there is to do, mastodon and all
END

plant file_size src/planted.rs 451 < <(yes '// line' | head -451)
plant file_size src/planted.rs - < <(yes '// line' | head -350)

plant driver src/planted.rs 2 <<'END'
// sys::cuInit in prose is fine
fn f() { unsafe { sys::cuInit(0) }; }
END
plant driver bin/planted/main.rs 1 <<'END'
use cudarc::driver::sys;
END
plant driver src/device/planted.rs - <<'END'
fn f() { unsafe { sys::cuInit(0) }; }
END
plant driver src/planted.rs - <<'END'
fn f() -> &'static str { r#"say "sys::cuInit" "# }
END

plant floors src/memory/planted.rs 1 <<'END'
use crate::comm::Communicator;
END
plant floors src/device/planted.rs 4 <<'END'
use crate::{
    error::{Error, Result},
    types::Rank,
    memory::Heap,
};
END
plant floors src/device/planted.rs 2 <<'END'
use crate::variant::Plan;
fn f() { crate::watch::start() }
END
plant floors src/planted.rs 1 <<'END'
fn f() {}
END
plant floors src/watch/planted.rs - <<'END'
use crate::{Error, bootstrap, types::Rank};
// crate::comm in prose is fine
#[cfg(test)]
mod tests {
    use crate::comm::Communicator;
}
END
plant floors src/memory/planted.rs - </dev/null
plant floors src/memory/tests.rs - <<'END'
use crate::comm::Communicator;
END
mkdir -p "$tree/src/table" && echo 'use crate::variant::Planted;' >"$tree/src/table/sideways.rs"
mirror_again src/table/sideways.rs
plant floors src/variant/planted.rs 1 <<'END'
use crate::table::Planted;
END
