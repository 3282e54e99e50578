// ring_loop: one persistent loop that produces, consumes and forwards, by all threads of a CTA alike.
#pragma once
#include "proto/ring_step.cuh"
#include "proto/slot_step.cuh"

namespace myelon {

// INVARIANT: with direct outputs, a result is stored into the next rank's output only once that rank's launch has begun and has read
// its input there for good: the result is made of that input. So whatever its stream did with the output before has ended, and
// in place nothing is overwritten unread; [slot-publish] hands this on from rank to rank, round the ring. A slot goes round with each
// such step all the same, and stays empty: its sequence says that the result is there. And only once that rank has said that it
// runs the same operation, its output at the same offset of the same window: nothing else tells where that is. And not by a launch
// that begins when a rank has given up and its kernel has ended: then the output may be gone.

// The steps of this launch for `share`, this lane's, in rounds of n chunks. False when one of the waits was given up.
template <class T, class Op, class Config>
MYELON_DEVICE bool ring_loop(const Args& args, Share share, Producer& producer, Consumer& consumer) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  using Schedule = RingSchedule<kWorldSize>;
  const Schedule schedule(args, share, args.chunk_bytes);
  for (u64 round = 0; round < schedule.rounds(); ++round) {
    const Share part = schedule.part(round);
    for (u32 step = args.first_step; step < args.end_step; ++step) {
      const bool receives = Schedule::receives(step);
      const bool sends = Schedule::sends(step);
      const Share chunk = schedule.chunk(part, step);
      const bool sends_direct = Config::kDirect && Schedule::sends_result(step);
      const bool receives_direct = Config::kDirect && Schedule::receives_result(step);
      auto work = [&](const u8* received, u8* sent) {
        ring_step<kRingUnroll, T, Op, kWorldSize>(
            step, cta_strided(), receives_direct && !sends ? 0 : chunk.packs,
            [&](u64 i) { return load_pack<T>(args.input, chunk.first + i, args.count); },
            [&](u64 i) {
              if (receives_direct) return load_pack<T>(args.output, chunk.first + i, args.count);
              return load_whole_pack<T>(received, i);
            },
            [&](u64 i, Pack<T> pack) {
              if (sends_direct) {
                store_pack(args.next_output, chunk.first + i, args.count, pack);
              } else {
                st_weak_16(sent + i * kPackBytes, pack.bytes);
              }
            },
            [&](u64 i, Pack<T> pack) {
              if (!receives_direct) store_pack(args.output, chunk.first + i, args.count, pack);
            });
      };
      if (!slot_step(producer, consumer, receives, sends, sends_direct, work)) return false;
    }
  }
  producer.finish();
  consumer.finish();
  return true;
}

}  // namespace myelon
