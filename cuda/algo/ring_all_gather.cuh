// ring_all_gather: the second half of ring: every rank's part goes round once, and each rank keeps what passes.
//
// WHAT   out[r][i] = in[r][i] on every rank; out is n parts, one a rank. Bytes are moved: T is any type of the element's size. What rank
//        r does, a chunk of each part a round:
//        step 0            in[r]    --> out[r], slot of r + 1; of the round before: slot --> out[r + 1]
//        steps 1 .. n-2    slot     --> out[r - step], slot of r + 1
// WHO    As ring: a lane has its own ring and share of every part, and all threads of the CTA produce and consume
//        (proto/half_ring.cuh).
// ORDER  [slot-publish] data to the next rank; [slot-release] credit back (proto/slot_ring.cuh).
// COST   For a part of S bytes: a rank of n sends (n - 1) x S, all to one neighbour; n - 1 hops, so for large messages.
#pragma once
#include "proto/half_ring.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void ring_all_gather(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
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
  half_ring<T, kWorldSize>(
      args, begin,
      [&](u32 step, Share chunk, const u8* received, u8* sent) {
        keep(part(args.rank + kWorldSize - step), chunk, received, sent);
      },
      [&](Share chunk, const u8* received) { keep(part(args.rank + 1), chunk, received, nullptr); });
}

}  // namespace myelon
