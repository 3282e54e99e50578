// async_copy: cp.async as a list of pending copies, that arrive when they are waited for and not before: a kernel that reads
// shared memory without waiting reads garbage. Their sources are read then as well, or, with injected delays, half of them
// when they are issued: a GPU may read at any time in between.
#pragma once
#include "cpu/memory.cuh"

namespace myelon {

struct PendingCopy {
  void* destination;
  const void* source;  // null: read already
  Bytes16 data;
};

struct PendingCopies {
  static constexpr u32 kCapacity = 256;
  PendingCopy copy[kCapacity];
  u32 group_end[kCapacity];
  u32 copies, groups;
};

inline PendingCopies& my_pending_copies() {
  if (current->copies == nullptr) current->copies = static_cast<PendingCopies*>(calloc(1, sizeof(PendingCopies)));
  return *current->copies;
}

inline void cp_async_16(void* shared_destination, const void* global_source) {
  PendingCopies& pending = my_pending_copies();
  if (pending.copies == PendingCopies::kCapacity) fail("more cp.async under way than the CPU device keeps");
  PendingCopy& copy = pending.copy[pending.copies++];
  copy = {shared_destination, global_source, {}};
  if (grid->delay_state != 0 && (next_random(grid->delay_state) & 1) != 0) {
    copy.data = ld_weak_16(global_source);
    copy.source = nullptr;
  }
}

inline void cp_async_commit() {
  PendingCopies& pending = my_pending_copies();
  if (pending.groups == PendingCopies::kCapacity) fail("more cp.async groups under way than the CPU device keeps");
  pending.group_end[pending.groups++] = pending.copies;
}

template <u32 kPending>
inline void cp_async_wait() {
  PendingCopies& pending = my_pending_copies();
  if (pending.groups <= kPending) return;
  const u32 done_groups = pending.groups - kPending;
  const u32 done = pending.group_end[done_groups - 1];
  for (u32 i = 0; i < done; ++i) {
    PendingCopy& copy = pending.copy[i];
    st_weak_16(copy.destination, copy.source == nullptr ? copy.data : ld_weak_16(copy.source));
  }
  memmove(pending.copy, pending.copy + done, (pending.copies - done) * sizeof(PendingCopy));
  memmove(pending.group_end, pending.group_end + done_groups, kPending * sizeof(u32));
  for (u32 group = 0; group < kPending; ++group) pending.group_end[group] -= done;
  pending.copies -= done;
  pending.groups = kPending;
}

}  // namespace myelon
