// ring: reduce-scatter and all-gather around the ring of ranks, through slots, in one persistent loop a lane.
//
// WHAT   Shards go round once to be reduced and once more as the result, chunk by chunk (proto/ring_step.cuh).
//        in, slots of r --> slots of r + 1, out
// WHO    A lane has its own ring and share of the message, and goes through it in rounds of n chunks. All threads of the CTA
//        produce and consume; one thread waits for the slot, another for the credit, at the same time.
// ORDER  [slot-publish] data to the next rank; [slot-release] credit back (proto/slot_ring.cuh).
// COST   A rank sends 2 (n - 1) / n x S bytes, all to one neighbour: traffic stays a permutation. 2n - 2 hops, so for large messages.
//        16- and 8-bit floats are rounded at every hop.
#pragma once
#include "proto/ring_step.cuh"
#include "proto/slot_ring.cuh"

namespace myelon {

// Packs of a thread under way at once. With 8, 1 GiB took 4650 us against 4659 at 64 lanes (4x H200, 2026-11-21): not worth
// the registers.
constexpr u32 kRingUnroll = 4;

template <class T, class Op, class Config>
MYELON_DEVICE void ring(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  using Schedule = RingSchedule<kWorldSize>;
  const Context context(args);
  Producer producer(context, (args.rank + 1) % kWorldSize);
  Consumer consumer(context, (args.rank + kWorldSize - 1) % kWorldSize);
  Announcement(context, kWorldSize).check(context);
  advance_operation(context, MailboxUse{});

  const Schedule schedule(args, lane_share(pack_count<T>(args.count)));
  for (u64 round = 0; round < schedule.rounds(); ++round) {
    for (u32 step = 0; step < Schedule::kSteps; ++step) {
      const bool receives = Schedule::receives(step);
      const bool sends = Schedule::sends(step);
      const Share chunk = schedule.chunk(round, step);

      bool ready = true;
      if (receives && thread_index() == kConsumerThread) ready = consumer.wait();
      if (sends && thread_index() == kProducerThread) ready = producer.claim();
      // ORDER: [slot-publish] [slot-release] load-sync: what the two threads acquired is visible to all, and all go on or none.
      if (!sync_cta_and(ready)) return;

      const u8* received = consumer.slot();
      u8* sent = producer.slot();
      ring_step<kRingUnroll, T, Op, kWorldSize>(
          step, cta_strided(), chunk.packs,
          [&](u64 i) { return load_pack<T>(args.input, chunk.first + i, args.count); },
          [&](u64 i) {
            Pack<T> pack;
            pack.bytes = ld_weak_16(received + i * kPackBytes);
            return pack;
          },
          [&](u64 i, Pack<T> pack) { st_weak_16(sent + i * kPackBytes, pack.bytes); },
          [&](u64 i, Pack<T> pack) { store_pack(args.output, chunk.first + i, args.count, pack); });

      // ORDER: [slot-publish] [slot-release] load-sync: the CTA's stores to one slot and reads of the other are before what
      // the two threads release.
      sync_cta();
      if (sends) producer.publish();
      if (receives) consumer.release();
    }
  }
  producer.finish();
  consumer.finish();
}

}  // namespace myelon
