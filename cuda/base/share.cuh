// share: which packs of a message are a lane's, and how a CTA goes through a range of packs. Mirror of src/variant/share.rs.
#pragma once
#include "base/pack.cuh"

namespace myelon {

// A range of packs.
struct Share {
  u64 first;
  u64 packs;
};

constexpr u64 kLinePacks = kLineBytes / kPackBytes;

// `packs` in whole lines, but for what is short of one.
MYELON_DEVICE u64 whole_lines(u64 packs) { return packs < kLinePacks ? packs : packs / kLinePacks * kLinePacks; }

// The packs of each of `parts` equal parts of `packs` packs. Large parts are whole lines, at the price of an eighth at most: loads from
// a peer that begin elsewhere in a line take up to 1.7 times as long (4x H200, 2026-11-27).
MYELON_DEVICE u64 part_packs(u64 packs, u64 parts) {
  const u64 exact = (packs + parts - 1) / parts;
  return exact < 8 * kLinePacks ? exact : whole_lines(exact + kLinePacks - 1);
}

// Part `index` of `packs` packs from `first`, cut into `parts`; the last ones can be short or empty.
// INVARIANT: what holds whole lines, and as many packs as the largest of `parts` exactly equal ones, holds any of these.
MYELON_DEVICE Share cut(u64 first, u64 packs, u64 parts, u64 index) {
  const u64 each = part_packs(packs, parts);
  const u64 start = each * index < packs ? each * index : packs;
  return {first + start, packs - start < each ? packs - start : each};
}

// A range of packs, gone through in as few rounds of at most `most` packs as there can be; all are about equal. `most` is whole lines.
struct Rounds {
  const Share share;
  const u64 count;

  MYELON_DEVICE Rounds(Share range, u64 most) : share(range), count((range.packs + most - 1) / most) {}

  MYELON_DEVICE Share at(u64 round) const { return cut(share.first, share.packs, count, round); }
};

// The calling lane's part of a message of `packs` packs.
MYELON_DEVICE Share lane_share(u64 packs) { return cut(0, packs, cta_count(), cta_index()); }

// The calling thread's packs of a range: `first`, `first + step`, ...
struct Strided {
  u64 first;
  u64 step;
};

// The CTA's threads share the range, or all threads of the grid do.
MYELON_DEVICE Strided cta_strided() { return {thread_index(), thread_count()}; }
MYELON_DEVICE Strided grid_strided() {
  return {static_cast<u64>(cta_index()) * thread_count() + thread_index(), static_cast<u64>(cta_count()) * thread_count()};
}

// Moves a thread's packs of a range of `packs`: `store(i, load(i))`. Several loads are under way before the first store,
// which is what keeps memory and links busy; the loads are volatile, so the compiler would not arrange that by itself.
template <u32 kUnroll, class T, class Load, class Store>
MYELON_DEVICE void for_each_pack(Strided mine, u64 packs, Load load, Store store) {
  MYELON_NO_UNROLL
  for (u64 first = mine.first; first < packs; first += kUnroll * mine.step) {
    Pack<T> pack[kUnroll];
    MYELON_UNROLL
    for (u32 k = 0; k < kUnroll; ++k) {
      const u64 index = first + k * mine.step;
      if (index < packs) pack[k] = load(index);
    }
    MYELON_UNROLL
    for (u32 k = 0; k < kUnroll; ++k) {
      const u64 index = first + k * mine.step;
      if (index < packs) store(index, pack[k]);
    }
  }
}

// As above, by all threads of the CTA.
template <u32 kUnroll, class T, class Load, class Store>
MYELON_DEVICE void for_each_pack(u64 packs, Load load, Store store) {
  for_each_pack<kUnroll, T>(cta_strided(), packs, load, store);
}

// Half of the warps do one first, half the other, so that local memory and the links are busy at the same time.
template <class One, class Other>
MYELON_DEVICE void side_by_side(One one, Other other) {
  const bool other_first = thread_index() / kWarpThreads % 2 != 0;
  MYELON_NO_UNROLL
  for (u32 half = 0; half < 2; ++half) {
    if ((half == 0) != other_first) {
      one();
    } else {
      other();
    }
  }
}

}  // namespace myelon
