// prefetch: packs of every rank through a pipeline of cp.async stages in shared memory, while earlier ones are worked on.
//
// A thread fetches packs into its own places and reads them from there: no thread reads what another fetched, so the pipeline
// needs no barrier of the CTA. Places lie in one of two orders:
//
//   coalesced   [stage][rank][thread]   what a warp fetches from a rank lies together
//   swizzled    [stage][thread][rank]   a thread's packs lie together; ranks rotated, so that eight threads, which shared memory
//                                       serves at once, meet in no bank, whatever the number of ranks
#pragma once
#include "base/pack.cuh"
#include "sync/phase.cuh"

namespace myelon {

template <class T, class Config>
class Prefetch {
  static constexpr u32 kStages = Config::kStages;
  static constexpr u32 kRanks = Config::kWorldSize;
  static constexpr u32 kThreadsAtOnce = 128 / kPackBytes;

 public:
  // Goes through packs 0 to `packs` - 1, shared among the threads of the CTA; by all of them. `has(k, index)`: whether there is a
  // k-th pack of that index, k below the number of ranks; `address(k, index)`: where, in a heap, behind an acquire of what is
  // there. `use(index, pack)` gets all that there are.
  template <class Has, class Address, class Use>
  static MYELON_DEVICE void run(u64 packs, Has has, Address address, Use use) {
    const u64 threads = thread_count();
    auto fetch = [&](u64 round) {
      const u64 index = round * threads + thread_index();
      MYELON_UNROLL
      for (u32 k = 0; k < kRanks; ++k) {
        // ORDER: [signal] [stage] consume: a weak load of what the barrier acquired.
        if (index < packs && has(k, index)) cp_async_16(place(round, k), address(k, index));
      }
      // ORDER: [stage] publish: closes the group that is waited for; empty ones keep the count of groups equal to the rounds'.
      cp_async_commit();
    };

    for (u32 round = 0; round + 1 < kStages; ++round) fetch(round);
    const u64 rounds = (packs + threads - 1) / threads;
    for (u64 round = 0; round < rounds; ++round) {
      // The stage this refills was used up in the round before, by this very thread.
      fetch(round + kStages - 1);
      // ORDER: [stage] load-sync: this thread's copies of the round are in shared memory; no other thread reads them.
      cp_async_wait<kStages - 1>();
      end_phase();
      const u64 index = round * threads + thread_index();
      if (index < packs) {
        Pack<T> pack[kRanks];
        MYELON_UNROLL
        for (u32 k = 0; k < kRanks; ++k) {
          if (has(k, index)) pack[k].bytes = *place(round, k);
        }
        use(index, pack);
      }
      end_phase();
    }
  }

 private:
  // This thread's place for the k-th pack of a round.
  static MYELON_DEVICE Bytes16* place(u64 round, u32 k) {
    Bytes16* const stage = reinterpret_cast<Bytes16*>(shared_memory()) + round % kStages * kRanks * thread_count();
    const u32 thread = thread_index();
    if (!Config::kSwizzled) return &stage[static_cast<u64>(k) * thread_count() + thread];
    // Rows whose length is odd meet in no bank by themselves; others by as much as their length is even.
    constexpr u32 kEven = kRanks & (0u - kRanks);
    return &stage[static_cast<u64>(thread) * kRanks + (k + thread * kEven / kThreadsAtOnce) % kRanks];
  }
};

}  // namespace myelon
