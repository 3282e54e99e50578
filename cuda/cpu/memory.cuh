// memory: the accesses of ptx/memory.cuh as C++ atomics. Scopes fall together; semantics do not.
//
// A weak access is a plain one, so that ThreadSanitizer sees a missing acquire or release between ranks.
#pragma once
#include "cpu/platform.cuh"

namespace myelon {

struct alignas(16) Bytes16 {
  u64 half[2];
};

MYELON_DEVICE Bytes16 ld_weak_16(const void* address) { return *static_cast<const Bytes16*>(address); }

MYELON_DEVICE void st_weak_16(void* address, Bytes16 value) { *static_cast<Bytes16*>(address) = value; }

MYELON_DEVICE Bytes16 ld_relaxed_sys_16(const void* address) {
  const u64* half = static_cast<const u64*>(address);
  return {{__atomic_load_n(half, __ATOMIC_RELAXED), __atomic_load_n(half + 1, __ATOMIC_RELAXED)}};
}

MYELON_DEVICE void st_relaxed_sys_16(void* address, Bytes16 value) {
  // Upper half first: PTX promises no order between them, and this is the one that code is less likely to expect.
  u64* half = static_cast<u64*>(address);
  __atomic_store_n(half + 1, value.half[1], __ATOMIC_RELAXED);
  inject_store_delay();
  __atomic_store_n(half, value.half[0], __ATOMIC_RELAXED);
}

MYELON_DEVICE u64 ld_relaxed_sys(const u64* address) { return __atomic_load_n(address, __ATOMIC_RELAXED); }
MYELON_DEVICE u32 ld_relaxed_sys(const u32* address) { return __atomic_load_n(address, __ATOMIC_RELAXED); }
MYELON_DEVICE u64 ld_acquire_sys(const u64* address) { return __atomic_load_n(address, __ATOMIC_ACQUIRE); }

MYELON_DEVICE void st_relaxed_sys(u64* address, u64 value) {
  inject_store_delay();
  __atomic_store_n(address, value, __ATOMIC_RELAXED);
}

MYELON_DEVICE void st_release_sys(u64* address, u64 value) {
  inject_store_delay();
  __atomic_store_n(address, value, __ATOMIC_RELEASE);
}

MYELON_DEVICE void st_release_sys(u32* address, u32 value) { __atomic_store_n(address, value, __ATOMIC_RELEASE); }

MYELON_DEVICE u32 atomic_exchange_relaxed_gpu(u32* address, u32 value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

MYELON_DEVICE u64 atomic_exchange_relaxed_gpu(u64* address, u64 value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

MYELON_DEVICE void atomic_add_relaxed_gpu(u64* address, u64 value) { __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }

MYELON_DEVICE u64 atomic_add_acq_rel_gpu(u64* address, u64 value) {
  return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
}

// ThreadSanitizer does not model fences; a read-modify-write on a common word is one that it sees.
inline u32 fence_word = 0;
MYELON_DEVICE void fence_acq_rel_sys() { __atomic_fetch_add(&fence_word, 1, __ATOMIC_SEQ_CST); }

}  // namespace myelon
