// staging: a lane's cell of the heap that peers read from: user buffers are plain memory that no peer can reach.
//
// Two halves alternate from use to use of the lane: an operation is one, or one a step (proto/turns.cuh).
// INVARIANT: a half is written again only two uses of this lane later. In between lies a barrier, which every peer's lane joined
// after it had finished reading.
#pragma once
#include "base/share.cuh"
#include "sync/barrier.cuh"

namespace myelon {

template <class T>
class Staging {
 public:
  // Reads the lane's counter; all threads, before the first barrier.
  // ORDER: [lane-epoch] epoch: written by `finish` of the launch before that staged on this lane.
  MYELON_DEVICE explicit Staging(const Context& context)
      : context_(context), uses_(ld_relaxed_sys(&context.lane_state(context.args.rank)->staging_uses)) {}

  // Address of pack `index` of this lane's share, or of its step `step`, in the cell of `rank`.
  MYELON_DEVICE u8* address(u32 rank, u64 index, u64 step = 0) const {
    const HeapLayout& layout = context_.args.layout;
    const u64 half = context_.lane * kStagingBuffers + (uses_ + step) % kStagingBuffers;
    return context_.in_heap<u8>(rank, layout.staging + half * layout.staging_bytes + index * kPackBytes);
  }

  MYELON_DEVICE Pack<T> load(u32 rank, u64 index, u64 step = 0) const {
    Pack<T> pack;
    pack.bytes = ld_weak_16(address(rank, index, step));
    return pack;
  }

  MYELON_DEVICE void store(u64 index, Pack<T> pack, u64 step = 0) const {
    st_weak_16(address(context_.args.rank, index, step), pack.bytes);
  }

  // Copies this lane's share of the user's input into the own cell.
  MYELON_DEVICE void copy_in(Share share) const {
    const Args& args = context_.args;
    for_each_pack<4, T>(
        share.packs, [&](u64 i) { return load_pack<T>(args.input, share.first + i, args.count); },
        [&](u64 i, Pack<T> pack) { store(i, pack); });
  }

  // Leaves the counter for the next launch. After a barrier, by all threads.
  MYELON_DEVICE void finish(u64 steps = 1) {
    // ORDER: [lane-epoch] epoch: the CTA's reads were before its first barrier; the next launch reads this.
    if (thread_index() == 0) context_.lane_state(context_.args.rank)->staging_uses = uses_ + steps;
  }

 private:
  const Context context_;
  const u64 uses_;
};

}  // namespace myelon
