// barrier: all ranks meet, lane by lane. Lane b of a rank meets lane b of the others and no other lane.
#pragma once
#include "sync/operation.cuh"

namespace myelon {

// A lane's barriers within one launch. The sequence goes on from launch to launch, so nothing is ever reset.
class LaneBarrier {
 public:
  MYELON_DEVICE LaneBarrier(const Context& context, u32 world_size)
      : context_(context),
        world_size_(world_size),
        // ORDER: [lane-epoch] epoch: written by `finish` of the launch before that met a barrier on this lane.
        sequence_(ld_relaxed_sys(&context.lane_state(context.args.rank)->signal_sequence)) {}

  // Returns when every rank's lane has arrived; false on all threads when one of the waits was given up.
  // What any thread of a rank stored before is visible to every thread of all ranks after.
  MYELON_DEVICE bool arrive_and_wait() {
    ++sequence_;
    // ORDER: [signal] load-sync: the CTA's stores are before thread `peer`'s release, which hands on what it has been handed.
    sync_cta();
    bool arrived = true;
    const u32 peer = thread_index();
    if (peer < world_size_) {
      // ORDER: [signal] publish: what this rank staged, and the end of its reads of the half before.
      st_release_sys(&context_.lane_state(peer)->signal[context_.args.rank], sequence_);
      arrived = wait_for_sequence(context_, &context_.lane_state(context_.args.rank)->signal[peer], sequence_, peer);
    }
    // ORDER: [signal] load-sync: what thread `peer` has acquired is visible to the whole CTA, and all go on or none.
    return sync_cta_and(arrived);
  }

  // Leaves the sequence for the next launch. After the last barrier, by all threads.
  MYELON_DEVICE void finish() {
    // ORDER: [lane-epoch] epoch: the CTA's reads were before `advance_operation`; the next launch reads this.
    if (thread_index() == 0) context_.lane_state(context_.args.rank)->signal_sequence = sequence_;
  }

 private:
  const Context context_;
  const u32 world_size_;
  u64 sequence_;
};

}  // namespace myelon
