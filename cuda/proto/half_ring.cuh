// half_ring: the loop of half a ring: every rank's part goes round once through slots, whatever a rank does with what passes.
//
//   step 0            begin --> slot of r + 1; of the round before: slot --> end
//   steps 1 .. n-2    slot --> pass --> slot of r + 1
//
// A round ends in the first step of the next, so that each step but a launch's first and last sends and receives.
#pragma once
#include "proto/slot_step.cuh"

namespace myelon {

// All of a lane's share of every part, in rounds of a chunk. `begin(chunk, sent)` fills a slot, `pass(step, chunk, received, sent)`
// forwards one, `end(chunk, received)` takes the last of a round. A rank that is alone begins, with no slot, and that is all.
template <class T, u32 kWorldSize, class Begin, class Pass, class End>
MYELON_DEVICE void half_ring(const Args& args, Begin begin, Pass pass, End end) {
  const Context context(args);
  Producer producer(context, (args.rank + 1) % kWorldSize);
  Consumer consumer(context, (args.rank + kWorldSize - 1) % kWorldSize);
  Announcement(context, kWorldSize).check(context);
  advance_operation(context, MailboxUse{});

  const Rounds rounds(lane_share(pack_count<T>(args.count)), args.chunk_bytes / kPackBytes);
  if (kWorldSize == 1) return begin(rounds.share, nullptr);
  const u64 turns = rounds.count > 0 ? rounds.count + 1 : 0;
  for (u64 round = 0; round < turns; ++round) {
    const bool begins = round < rounds.count;
    const bool ends = round > 0;
    const Share chunk = rounds.at(round);
    auto turn = [&](const u8* received, u8* sent) {
      side_by_side([&] { if (begins) begin(chunk, sent); }, [&] { if (ends) end(rounds.at(round - 1), received); });
    };
    if (!slot_step(producer, consumer, ends, begins, false, turn)) return;
    for (u32 step = 1; begins && step + 1 < kWorldSize; ++step) {
      auto forward = [&](const u8* received, u8* sent) { pass(step, chunk, received, sent); };
      if (!slot_step(producer, consumer, true, true, false, forward)) return;
    }
  }
  producer.finish();
  consumer.finish();
}

}  // namespace myelon
