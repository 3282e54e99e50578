// signal_reduce_scatter: every rank stages the parts of the others, and loads and reduces its own from everybody's staging.
//
// WHAT   out[r][i] = op over s of in[s][r][i], in rank order; in[s] is n parts, one a rank.
//        in[s][r] --copy--> staging of s --barrier--> loads of part r from all ranks, the own one from the input --> reduce --> out
// WHO    A lane goes through its share of every part in steps that fit its staging: step k + 1 is staged while step k is reduced.
// ORDER  [signal] once a step: what was staged in a turn is data in the next (proto/turns.cuh).
// COST   For a part of S bytes: a rank of n loads (n - 1) x S from its peers; two hops, and one more a step.
#pragma once
#include "proto/turns.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void signal_reduce_scatter(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  // Packs of the result that a thread has under way: about eight loads.
  constexpr u32 kUnroll = kWorldSize <= 2 ? 4 : kWorldSize <= 4 ? 2 : 1;
  const Context context(args);
  Staging<T> staging(context);
  const Steps steps(context, pack_count<T>(args.count), kWorldSize > 1 ? kWorldSize - 1 : 1);
  auto part = [&](u32 rank) { return static_cast<const u8*>(args.input) + rank * args.part_bytes; };
  // Nobody stages the part that it reduces itself: the part of `reader` among those in the cell of `owner`.
  auto place = [&](u32 owner, u32 reader, u64 i) { return steps.place(reader < owner ? reader : reader - 1, i); };

  auto stage = [&](u64 k) {
    if (k >= steps.count()) return;
    const Share step = steps.at(k);
    MYELON_NO_UNROLL
    for (u32 distance = 1; distance < kWorldSize; ++distance) {
      const u32 peer = (args.rank + distance) % kWorldSize;
      const u8* source = part(peer);
      for_each_pack<4, T>(
          step.packs, [&](u64 i) { return load_pack<T>(source, step.first + i, args.count); },
          [&](u64 i, Pack<T> pack) { staging.store(place(args.rank, peer, i), pack, k); });
    }
  };
  // In place the output is the own part: each pack of it is loaded and stored by one thread.
  auto reduce = [&](u64 k) {
    const Share step = steps.at(k);
    const u8* own = part(args.rank);
    MYELON_NO_UNROLL
    for (u64 first = thread_index(); first < step.packs; first += kUnroll * thread_count()) {
      Pack<T> packs[kUnroll][kWorldSize];
      MYELON_UNROLL
      for (u32 u = 0; u < kUnroll; ++u) {
        const u64 i = first + u * thread_count();
        if (i >= step.packs) continue;
        MYELON_UNROLL
        for (u32 source = 0; source < kWorldSize; ++source) {
          packs[u][source] = source == args.rank ? load_pack<T>(own, step.first + i, args.count)
                                                 : staging.load(source, place(source, args.rank, i), k);
        }
      }
      MYELON_UNROLL
      for (u32 u = 0; u < kUnroll; ++u) {
        const u64 i = first + u * thread_count();
        if (i < step.packs) store_pack(args.output, step.first + i, args.count, reduce_in_order<T, Op>(packs[u]));
      }
    }
  };
  take_turns(
      context, kWorldSize, staging, steps.count(), steps.count() + 1, [&] { stage(0); },
      [&](u64 turn) { side_by_side([&] { stage(turn); }, [&] { reduce(turn - 1); }); });
}

}  // namespace myelon
