// signal_all_gather: every rank stages its input, and loads everybody's from the staging.
//
// WHAT   out[r][i] = in[r][i] on every rank; out is n parts, one a rank. Bytes are moved: T is any type of the element's size.
//        in --copy--> staging, own part of out --barrier--> loads from all peers --> their parts of out
// WHO    A lane goes through its share of every part in steps that fit its staging: step k + 1 is staged while step k is loaded.
// ORDER  [signal] once a step: what was staged in a turn is data in the next (proto/turns.cuh).
// COST   For a part of S bytes: a rank of n loads (n - 1) x S from its peers; two hops, and one more a step.
#pragma once
#include "proto/turns.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void signal_all_gather(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  Staging<T> staging(context);
  const Steps steps(context, pack_count<T>(args.count), 1);
  auto part = [&](u32 rank) { return static_cast<u8*>(args.output) + rank * args.part_bytes; };

  auto stage = [&](u64 k) {
    if (k >= steps.count()) return;
    const Share step = steps.at(k);
    u8* own = part(args.rank);
    const bool in_place = own == args.input;
    for_each_pack<4, T>(
        step.packs, [&](u64 i) { return load_pack<T>(args.input, step.first + i, args.count); },
        [&](u64 i, Pack<T> pack) {
          staging.store(i, pack, k);
          if (!in_place) store_pack(own, step.first + i, args.count, pack);
        });
  };
  auto gather = [&](u64 k) {
    const Share step = steps.at(k);
    MYELON_NO_UNROLL
    for (u32 distance = 1; distance < kWorldSize; ++distance) {
      // Each rank starts with another peer, so that they do not all load from one.
      const u32 source = (args.rank + distance) % kWorldSize;
      u8* target = part(source);
      for_each_pack<4, T>(
          step.packs, [&](u64 i) { return staging.load(source, i, k); },
          [&](u64 i, Pack<T> pack) { store_pack(target, step.first + i, args.count, pack); });
    }
  };
  take_turns(
      context, kWorldSize, staging, steps.count(), steps.count() + 1, [&] { stage(0); },
      [&](u64 turn) { side_by_side([&] { stage(turn); }, [&] { gather(turn - 1); }); });
}

}  // namespace myelon
