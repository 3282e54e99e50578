// turns: a message of any size through the two halves of a lane's staging, step by step, in one launch.
//
//        turn 0    turn 1               turn 2
//        stage 0 | stage 1, take 0    | stage 2, take 1    | ...        |: a lane barrier
//
// INVARIANT: step k lies in one half, step k + 1 in the other. A half is written again two steps later, behind the barrier at the
// end of the turn in which its content was taken. Behind the last turn stands none: the next use of this lane's staging, of any
// kernel, takes the half of the last step but one, which the barrier before the last turn has freed.
#pragma once
#include "proto/staging.cuh"
#include "sync/phase.cuh"

namespace myelon {

// A lane's share, cut into steps of which each fits a staging half with room for `parts` of them. One at least, also of nothing: a
// lane meets every operation's barriers.
class Steps {
 public:
  MYELON_DEVICE Steps(const Context& context, u64 packs, u32 parts)
      : share_(lane_share(packs)), room_(whole_lines(context.args.layout.staging_bytes / kPackBytes / parts)) {}

  MYELON_DEVICE u64 count() const { return share_.packs > room_ ? (share_.packs + room_ - 1) / room_ : 1; }
  // The packs of the whole message that step `step` is.
  MYELON_DEVICE Share at(u64 step) const {
    const u64 first = step * room_ < share_.packs ? step * room_ : share_.packs;
    const u64 left = share_.packs - first;
    return {share_.first + first, left < room_ ? left : room_};
  }
  // Where in the half pack `index` of the step of part `part` lies.
  MYELON_DEVICE u64 place(u32 part, u64 index) const { return part * room_ + index; }
  MYELON_DEVICE u64 packs() const { return share_.packs; }

 private:
  const Share share_;
  const u64 room_;
};

// A launch in `turns` turns, two at least: `first()`, then `turn(1)`, `turn(2)`, ..., with a barrier before each.
template <class T, class First, class Turn>
MYELON_DEVICE void take_turns(const Context& context, u32 world_size, Staging<T>& staging, u64 steps, u64 turns, First first,
                              Turn turn) {
  LaneBarrier barrier(context, world_size);
  first();
  end_phase();
  const Announcement announcement(context, world_size);
  barrier.arrive();
  step_counters(context, MailboxUse{});
  if (!barrier.wait()) return;
  MYELON_NO_UNROLL
  for (u64 k = 1;; ++k) {
    turn(k);
    end_phase();
    if (k + 1 == turns) break;
    if (!barrier.arrive_and_wait()) return;
  }
  barrier.finish();
  staging.finish(steps);
  announcement.check(context);
}

}  // namespace myelon
