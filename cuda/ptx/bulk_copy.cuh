// bulk_copy: copies of many bytes by one instruction (the async proxy), and mbarriers, on which loads complete. sm_90 and newer.
//
// Addresses and sizes are multiples of 16 bytes. An mbarrier's phase is over when all arrivals it was made for have come and
// all bytes that were expected are in place; the next begins at once. A waiter names the phase by its parity: 0, 1, 0, ...
#pragma once
#include "ptx/platform.cuh"

#if __CUDA_ARCH__ >= 900
namespace myelon {

// Lies in shared memory.
struct alignas(8) Mbarrier {
  u64 state;
};

MYELON_DEVICE u32 shared_address(const void* address) { return static_cast<u32>(__cvta_generic_to_shared(address)); }

// By one thread, followed by fence_proxy_async and a barrier of the CTA.
MYELON_DEVICE void mbarrier_init(Mbarrier* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

MYELON_DEVICE void mbarrier_arrive_release_cta(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and lets the phase wait for `bytes` of bulk loads as well.
MYELON_DEVICE void mbarrier_arrive_expect_release_cta(Mbarrier* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

// Whether the phase of this parity is over. May sleep for about a microsecond before it says no.
MYELON_DEVICE bool mbarrier_try_wait_acquire_cta(Mbarrier* barrier, u32 parity) {
  u32 over;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2, 1000;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(over)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return over != 0;
}

// Global to shared memory; completes on `barrier`, which has to expect the bytes. The source may be a peer's.
MYELON_DEVICE void bulk_load(void* shared_destination, const void* global_source, u32 bytes, Mbarrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared_destination)),
      "l"(global_source), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// Shared to global memory; completes with the group of this thread that the next commit closes.
MYELON_DEVICE void bulk_store(void* global_destination, const void* shared_source, u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global_destination),
               "r"(shared_address(shared_source)), "r"(bytes)
               : "memory");
}

MYELON_DEVICE void bulk_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until the sources of this thread's stores have been read. Says nothing of where they go.
MYELON_DEVICE void bulk_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Waits until this thread's stores are in place and visible to it.
MYELON_DEVICE void bulk_store_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Orders this thread's plain accesses, and those it has acquired, against bulk copies, both ways.
MYELON_DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

}  // namespace myelon
#endif
