// async_copy: cp.async, global to shared memory, 16 bytes a thread. A weak access: issue it only after an acquire.
#pragma once
#include "ptx/platform.cuh"

namespace myelon {

MYELON_DEVICE void cp_async_16(void* shared_destination, const void* global_source) {
  const u32 destination = static_cast<u32>(__cvta_generic_to_shared(shared_destination));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(destination), "l"(global_source) : "memory");
}

MYELON_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `kPending` of this thread's groups are under way. What it makes visible, it makes visible to this thread.
template <u32 kPending>
MYELON_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace myelon
