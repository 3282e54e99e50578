// memory: loads, stores and atomics, one instruction a function, named by semantics and scope.
//
// Every ordered access carries a "memory" clobber: without it the compiler may move plain accesses across.
// Weak 16-byte loads have none, so that they can be scheduled freely between two ordered accesses; weak stores have one.
#pragma once
#include "ptx/platform.cuh"

namespace myelon {

// Sixteen bytes as two 64-bit halves: the unit a thread moves. PTX sees each half whole, in no order between them.
struct alignas(16) Bytes16 {
  u64 half[2];
};

MYELON_DEVICE Bytes16 ld_weak_16(const void* address) {
  Bytes16 value;
  asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(value.half[0]), "=l"(value.half[1]) : "l"(address));
  return value;
}

MYELON_DEVICE void st_weak_16(void* address, Bytes16 value) {
  asm volatile("st.global.v2.u64 [%0], {%1, %2};" ::"l"(address), "l"(value.half[0]), "l"(value.half[1]) : "memory");
}

MYELON_DEVICE Bytes16 ld_relaxed_sys_16(const void* address) {
  Bytes16 value;
  asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(value.half[0]), "=l"(value.half[1])
               : "l"(address)
               : "memory");
  return value;
}

MYELON_DEVICE void st_relaxed_sys_16(void* address, Bytes16 value) {
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(address), "l"(value.half[0]), "l"(value.half[1])
               : "memory");
}

MYELON_DEVICE u64 ld_relaxed_sys(const u64* address) {
  u64 value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}

MYELON_DEVICE u32 ld_relaxed_sys(const u32* address) {
  u32 value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

MYELON_DEVICE u64 ld_acquire_sys(const u64* address) {
  u64 value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}

MYELON_DEVICE void st_relaxed_sys(u64* address, u64 value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

MYELON_DEVICE void st_release_sys(u64* address, u64 value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

MYELON_DEVICE void st_release_sys(u32* address, u32 value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

MYELON_DEVICE u32 atomic_exchange_relaxed_gpu(u32* address, u32 value) {
  u32 before;
  asm volatile("atom.exch.relaxed.gpu.global.b32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
  return before;
}

MYELON_DEVICE u64 atomic_exchange_relaxed_gpu(u64* address, u64 value) {
  u64 before;
  asm volatile("atom.exch.relaxed.gpu.global.b64 %0, [%1], %2;" : "=l"(before) : "l"(address), "l"(value) : "memory");
  return before;
}

MYELON_DEVICE void atomic_add_relaxed_gpu(u64* address, u64 value) {
  asm volatile("red.add.relaxed.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// The value before.
MYELON_DEVICE u64 atomic_add_acq_rel_gpu(u64* address, u64 value) {
  u64 before;
  asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], %2;" : "=l"(before) : "l"(address), "l"(value) : "memory");
  return before;
}

// Orders everything before it in this thread against everything after it, for all of the system.
MYELON_DEVICE void fence_acq_rel_sys() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }

}  // namespace myelon
