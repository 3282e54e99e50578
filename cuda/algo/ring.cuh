// ring: reduce-scatter and all-gather around the ring of ranks, through slots, in one persistent loop a lane.
//
// WHAT   Shard s starts at rank s as its input, gathers rank s + 1, s + 2, ... on its way round, is complete at rank s - 1,
//        and goes round once more as the result.
//        step 0            in[r]                --> slot of r + 1
//        steps 1 .. n-2    slot + in            --> slot of r + 1
//        step n-1          slot + in = result   --> out, slot of r + 1
//        steps n .. 2n-3   slot                 --> out, slot of r + 1
//        step 2n-2         slot                 --> out
// WHO    A lane has its own ring and share of the message, and goes through it in rounds of n chunks. All threads of the CTA
//        produce and consume; one thread waits for the slot, another for the credit, at the same time.
// ORDER  [slot-publish] data to the next rank; [slot-release] credit back (proto/slot_ring.cuh).
// COST   A rank sends 2 (n - 1) / n x S bytes, all to one neighbour: traffic stays a permutation. 2n - 2 hops, so for large messages.
//        16- and 8-bit floats are rounded at every hop.
#pragma once
#include "proto/slot_ring.cuh"
#include "reduce/operator.cuh"

namespace myelon {

// Packs of a thread under way at once. With 8, 1 GiB took 4650 us against 4659 at 64 lanes (4x H200, 2026-11-21): not worth
// the registers.
constexpr u32 kRingUnroll = 4;

template <class T, class Op, class Config>
MYELON_DEVICE void ring(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  Producer producer(context, (args.rank + 1) % kWorldSize);
  Consumer consumer(context, (args.rank + kWorldSize - 1) % kWorldSize);
  announce_operation(context, kWorldSize);
  advance_operation(context, MailboxUse{});

  const Share share = lane_share(pack_count<T>(args.count));
  const u64 most = static_cast<u64>(args.chunk_bytes) / kPackBytes * kWorldSize;
  const u64 rounds = (share.packs + most - 1) / most;

  for (u64 round = 0; round < rounds; ++round) {
    const Share part = cut(share.first, share.packs, rounds, round);
    for (u32 step = 0; step < 2 * kWorldSize - 1; ++step) {
      const bool receives = step > 0;
      const bool sends = step < 2 * kWorldSize - 2;
      const Share chunk = cut(part.first, part.packs, kWorldSize, (args.rank + 2 * kWorldSize - step) % kWorldSize);

      bool ready = true;
      if (receives && thread_index() == kConsumerThread) ready = consumer.wait();
      if (sends && thread_index() == kProducerThread) ready = producer.claim();
      // ORDER: [slot-publish] [slot-release] load-sync: what the two threads acquired is visible to all, and all go on or none.
      if (!sync_cta_and(ready)) return;

      const u8* received = consumer.slot();
      u8* sent = producer.slot();
      auto input = [&](u64 i) { return load_pack<T>(args.input, chunk.first + i, args.count); };
      auto slot = [&](u64 i) {
        Pack<T> pack;
        pack.bytes = ld_weak_16(received + i * kPackBytes);
        return pack;
      };
      auto send = [&](u64 i, Pack<T> pack) { st_weak_16(sent + i * kPackBytes, pack.bytes); };
      auto keep = [&](u64 i, Pack<T> pack) { store_pack(args.output, chunk.first + i, args.count, pack); };
      auto reduced = [&](u64 i) {
        PackReducer<T, Op> reducer(slot(i));
        reducer.add(input(i));
        return reducer;
      };
      auto send_and_keep = [&](u64 i, Pack<T> pack) {
        send(i, pack);
        keep(i, pack);
      };

      if (kWorldSize == 1) {
        for_each_pack<kRingUnroll, T>(chunk.packs, [&](u64 i) { return PackReducer<T, Op>(input(i)).result(1); }, keep);
      } else if (step == 0) {
        for_each_pack<kRingUnroll, T>(chunk.packs, input, send);
      } else if (step < kWorldSize - 1) {
        for_each_pack<kRingUnroll, T>(chunk.packs, [&](u64 i) { return reduced(i).partial(); }, send);
      } else if (step == kWorldSize - 1) {
        for_each_pack<kRingUnroll, T>(chunk.packs, [&](u64 i) { return reduced(i).result(kWorldSize); }, send_and_keep);
      } else if (sends) {
        for_each_pack<kRingUnroll, T>(chunk.packs, slot, send_and_keep);
      } else {
        for_each_pack<kRingUnroll, T>(chunk.packs, slot, keep);
      }

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
