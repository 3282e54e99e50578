// signal_broadcast: the root stages its input, and all others load it: whole from the root, or, of a large message, a shard each
// that they pass on, so that the root's link carries it once.
//
// WHAT   out[i] = in[root][i] on every rank. Bytes are moved: T is any type of the element's size.
//        small   in --copy--> staging of the root --barrier--> out
//        large   in --copy--> staging of the root --barrier--> one shard: own staging, out --barrier--> the others' shards: out
// WHO    A lane goes through its share in steps that fit its staging; the step behind is under way while the next one is staged.
// ORDER  [signal] once a step: what was staged, or passed on, in a turn is data in the next (proto/turns.cuh).
// COST   S bytes: a rank loads S; the root's link carries (n - 1) x S of a small message, S of a large one. Two hops or three, and one
//        more a step.
#pragma once
#include "proto/turns.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void signal_broadcast(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  constexpr u32 kOthers = kWorldSize > 1 ? kWorldSize - 1 : 1;
  const Context context(args);
  Staging<T> staging(context);
  const Steps steps(context, pack_count<T>(args.count), 1);
  const u32 root = args.root;
  const bool is_root = args.rank == root;
  // A third hop costs about as much as a pack for each thread. The same on all ranks, for a lane's share is.
  const bool passed_on = kWorldSize > 2 && steps.packs() > thread_count();

  auto stage = [&](u64 k) {
    if (!is_root || k >= steps.count()) return;
    const Share step = steps.at(k);
    const bool in_place = args.output == args.input;
    for_each_pack<4, T>(
        step.packs, [&](u64 i) { return load_pack<T>(args.input, step.first + i, args.count); },
        [&](u64 i, Pack<T> pack) {
          staging.store(i, pack, k);
          if (!in_place) store_pack(args.output, step.first + i, args.count, pack);
        });
  };
  auto shard = [&](u64 k, u32 rank) {
    return passed_on ? cut(0, steps.at(k).packs, kOthers, rank < root ? rank : rank - 1) : Share{0, steps.at(k).packs};
  };
  // From the root: all of a small message, or the own shard, for the others too.
  auto fetch = [&](u64 k) {
    if (is_root || k >= steps.count()) return;
    const Share own = shard(k, args.rank);
    const u64 first = steps.at(k).first + own.first;
    for_each_pack<4, T>(
        own.packs, [&](u64 i) { return staging.load(root, own.first + i, k); },
        [&](u64 i, Pack<T> pack) {
          if (passed_on) staging.store(own.first + i, pack, k);
          store_pack(args.output, first + i, args.count, pack);
        });
  };
  auto gather = [&](u64 k) {
    if (is_root || k >= steps.count()) return;
    MYELON_NO_UNROLL
    for (u32 distance = 1; distance < kWorldSize; ++distance) {
      // Each rank starts with another peer, so that they do not all load from one.
      const u32 source = (args.rank + distance) % kWorldSize;
      if (source == root) continue;
      const Share part = shard(k, source);
      const u64 first = steps.at(k).first + part.first;
      for_each_pack<4, T>(
          part.packs, [&](u64 i) { return staging.load(source, part.first + i, k); },
          [&](u64 i, Pack<T> pack) { store_pack(args.output, first + i, args.count, pack); });
    }
  };
  take_turns(
      context, kWorldSize, staging, steps.count(), steps.count() + (passed_on ? 2 : 1), [&] { stage(0); },
      [&](u64 turn) {
        stage(turn);
        side_by_side([&] { fetch(turn - 1); }, [&] { if (passed_on && turn >= 2) gather(turn - 2); });
      });
}

}  // namespace myelon
