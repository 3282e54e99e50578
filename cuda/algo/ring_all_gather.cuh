// ring_all_gather: the second half of ring: every rank's part goes round once, and each rank keeps what passes.
//
// WHAT   out[r][i] = in[r][i] on every rank; out is n parts, one a rank. Bytes are moved: T is any type of the element's size. What rank
//        r does, a chunk of each part a round:
//        step 0            in[r]    --> out[r], slot of r + 1; of the round before: slot --> out[r + 1]
//        steps 1 .. n-2    slot     --> out[r - step], slot of r + 1
// WHO    As ring: a lane has its own ring and share of every part, and all threads of the CTA produce and consume. A round ends in the
//        first step of the next, so that each step sends and receives.
// ORDER  [slot-publish] data to the next rank; [slot-release] credit back (proto/slot_ring.cuh).
// COST   For a part of S bytes: a rank of n sends (n - 1) x S, all to one neighbour; n - 1 hops, so for large messages.
#pragma once
#include "proto/slot_step.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void ring_all_gather(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  Producer producer(context, (args.rank + 1) % kWorldSize);
  Consumer consumer(context, (args.rank + kWorldSize - 1) % kWorldSize);
  Announcement(context, kWorldSize).check(context);
  advance_operation(context, MailboxUse{});

  const Rounds rounds(lane_share(pack_count<T>(args.count)), args.chunk_bytes / kPackBytes);
  auto part = [&](u32 owner) { return static_cast<u8*>(args.output) + owner % kWorldSize * args.part_bytes; };
  auto begin = [&](Share chunk, u8* sent) {
    u8* own = part(args.rank);
    const bool in_place = own == args.input;
    for_each_pack<kRingUnroll, T>(
        chunk.packs, [&](u64 i) { return load_pack<T>(args.input, chunk.first + i, args.count); },
        [&](u64 i, Pack<T> pack) {
          if (kWorldSize > 1) st_weak_16(sent + i * kPackBytes, pack.bytes);
          if (!in_place) store_pack(own, chunk.first + i, args.count, pack);
        });
  };
  // What came is kept, and goes on, unless it has been everywhere.
  auto keep = [&](u8* kept, Share chunk, const u8* received, u8* sent) {
    for_each_pack<kRingUnroll, T>(
        chunk.packs, [&](u64 i) { return load_whole_pack<T>(received, i); },
        [&](u64 i, Pack<T> pack) {
          if (sent != nullptr) st_weak_16(sent + i * kPackBytes, pack.bytes);
          store_pack(kept, chunk.first + i, args.count, pack);
        });
  };

  if (kWorldSize == 1) return begin(rounds.share, nullptr);
  const u64 turns = rounds.count > 0 ? rounds.count + 1 : 0;
  for (u64 round = 0; round < turns; ++round) {
    const bool begins = round < rounds.count;
    const bool ends = round > 0;
    const Share chunk = rounds.at(round);
    auto turn = [&](const u8* received, u8* sent) {
      side_by_side([&] { if (begins) begin(chunk, sent); },
                   [&] { if (ends) keep(part(args.rank + 1), rounds.at(round - 1), received, nullptr); });
    };
    if (!slot_step(producer, consumer, ends, begins, false, turn)) return;
    for (u32 step = 1; begins && step + 1 < kWorldSize; ++step) {
      auto pass = [&](const u8* received, u8* sent) { keep(part(args.rank + kWorldSize - step), chunk, received, sent); };
      if (!slot_step(producer, consumer, true, true, false, pass)) return;
    }
  }
  producer.finish();
  consumer.finish();
}

}  // namespace myelon
