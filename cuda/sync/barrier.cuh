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

  // Tells all ranks that this lane has arrived, and waits for nobody but its own CTA. All threads, with `wait` to follow.
  MYELON_DEVICE void arrive() {
    ++sequence_;
    // ORDER: [signal] [epoch] [lane-epoch] load-sync: the CTA's stores are before thread `peer`'s release, which hands on what it
    // has been handed; and every thread's reads of the counters are before `step_counters`.
    sync_cta();
    const u32 peer = thread_index();
    // ORDER: [signal] publish: what this rank staged, and the end of its reads of the half before.
    if (peer < world_size_) st_release_sys(&context_.lane_state(peer)->signal[context_.args.rank], sequence_);
  }

  // Returns when every rank's lane has arrived; false on all threads when one of the waits was given up.
  // What any thread of a rank stored before `arrive` is visible to every thread of all ranks after `wait`.
  MYELON_DEVICE bool wait() {
    bool arrived = true;
    const u32 peer = thread_index();
    if (peer < world_size_) {
      arrived = wait_for_sequence(context_, &context_.lane_state(context_.args.rank)->signal[peer], sequence_, peer);
    }
    // ORDER: [signal] load-sync: what thread `peer` has acquired is visible to the whole CTA, and all go on or none.
    return sync_cta_and(arrived);
  }

  MYELON_DEVICE bool arrive_and_wait() {
    arrive();
    return wait();
  }

  // Leaves the sequence for the next launch. After the last barrier, by all threads.
  MYELON_DEVICE void finish() {
    // ORDER: [lane-epoch] epoch: the CTA's reads were before its first barrier; the next launch reads this.
    if (thread_index() == 0) context_.lane_state(context_.args.rank)->signal_sequence = sequence_;
  }

 private:
  const Context context_;
  const u32 world_size_;
  u64 sequence_;
};

}  // namespace myelon
