// ring_reduce_scatter: the first half of ring: every rank's part goes round once, gathers all inputs, and ends where it belongs.
//
// WHAT   out[r][i] = op over s of in[s][r][i], from in[r + 1] on round to in[r]; in[s] is n parts, one a rank. What rank r does, a chunk
//        of each part a round:
//        step 0            in[r][r - 1]                   --> slot of r + 1; of the round before: slot + in[r][r] = result --> out
//        steps 1 .. n-2    slot + in[r][r - 1 - step]     --> slot of r + 1
// WHO    As ring: a lane has its own ring and share of every part, and all threads of the CTA produce and consume
//        (proto/half_ring.cuh).
// ORDER  [slot-publish] data to the next rank; [slot-release] credit back (proto/slot_ring.cuh). In place the output is the own part: a
//        pack of it is loaded by the thread that stores it, before.
// COST   For a part of S bytes: a rank of n sends (n - 1) x S, all to one neighbour; n - 1 hops, so for large messages. 16- and 8-bit
//        floats are rounded at every hop.
#pragma once
#include "proto/half_ring.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void ring_reduce_scatter(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  // A pack of the part that is the own one after `steps` more steps.
  auto input = [&](u32 steps, Share chunk, u64 i) {
    const u32 owner = (args.rank + kWorldSize - steps) % kWorldSize;
    return load_pack<T>(static_cast<const u8*>(args.input) + owner * args.part_bytes, chunk.first + i, args.count);
  };
  auto keep = [&](Share chunk, u64 i, Pack<T> pack) { store_pack(args.output, chunk.first + i, args.count, pack); };
  auto begin = [&](Share chunk, u8* sent) {
    for_each_pack<kRingUnroll, T>(
        chunk.packs,
        [&](u64 i) {
          if (kWorldSize == 1) return PackReducer<T, Op>(input(0, chunk, i)).result(1);
          return input(1, chunk, i);
        },
        [&](u64 i, Pack<T> pack) {
          if (kWorldSize == 1) return keep(chunk, i, pack);
          st_weak_16(sent + i * kPackBytes, pack.bytes);
        });
  };
  auto pass = [&](u32 step, Share chunk, const u8* received, u8* sent) {
    for_each_pack<kRingUnroll, T>(
        chunk.packs,
        [&](u64 i) {
          PackReducer<T, Op> reducer(load_whole_pack<T>(received, i));
          reducer.add(input(step + 1, chunk, i));
          return reducer.partial();
        },
        [&](u64 i, Pack<T> pack) { st_weak_16(sent + i * kPackBytes, pack.bytes); });
  };
  auto end = [&](Share chunk, const u8* received) {
    for_each_pack<kRingUnroll, T>(
        chunk.packs,
        [&](u64 i) {
          PackReducer<T, Op> reducer(load_whole_pack<T>(received, i));
          reducer.add(input(0, chunk, i));
          return reducer.result(kWorldSize);
        },
        [&](u64 i, Pack<T> pack) { keep(chunk, i, pack); });
  };
  half_ring<T, kWorldSize>(args, begin, pass, end);
}

}  // namespace myelon
