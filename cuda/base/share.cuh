// share: which packs of a message are a lane's, and how a CTA goes through a range of packs. Mirror of Plan::shard_of.
#pragma once
#include "base/pack.cuh"

namespace myelon {

// A range of packs.
struct Share {
  u64 first;
  u64 packs;
};

// Part `index` of `packs` packs from `first`, cut into `parts` equal parts; the last ones can be short or empty.
MYELON_DEVICE Share cut(u64 first, u64 packs, u64 parts, u64 index) {
  const u64 each = (packs + parts - 1) / parts;
  const u64 start = each * index < packs ? each * index : packs;
  return {first + start, packs - start < each ? packs - start : each};
}

// The calling lane's part of a message of `packs` packs.
MYELON_DEVICE Share lane_share(u64 packs) { return cut(0, packs, cta_count(), cta_index()); }

// Some threads of a CTA, seen from one of them: it is number `index` of `threads`.
struct Team {
  u32 index;
  u32 threads;
};

// Moves `packs` packs with the threads of a team: `store(i, load(i))`. Several loads are under way before the first store,
// which is what keeps memory and links busy; the loads are volatile, so the compiler would not arrange that by itself.
template <u32 kUnroll, class T, class Load, class Store>
MYELON_DEVICE void for_each_pack(Team team, u64 packs, Load load, Store store) {
  const u64 threads = team.threads;
  for (u64 first = team.index; first < packs; first += kUnroll * threads) {
    Pack<T> pack[kUnroll];
    MYELON_UNROLL
    for (u32 k = 0; k < kUnroll; ++k) {
      const u64 index = first + k * threads;
      if (index < packs) pack[k] = load(index);
    }
    MYELON_UNROLL
    for (u32 k = 0; k < kUnroll; ++k) {
      const u64 index = first + k * threads;
      if (index < packs) store(index, pack[k]);
    }
  }
}

// As above, with all threads of the CTA.
template <u32 kUnroll, class T, class Load, class Store>
MYELON_DEVICE void for_each_pack(u64 packs, Load load, Store store) {
  for_each_pack<kUnroll, T>(Team{thread_index(), thread_count()}, packs, load, store);
}

}  // namespace myelon
