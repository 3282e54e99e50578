// stages: places in shared memory through which the producer warps of a CTA feed its consumer warps (warp specialisation).
//
// A message part is cut into pieces, numbered from 0; piece k lies in stage k % kStages. A stage's life is a slot's:
//
//   a producer warp                               the consumer warps
//   claim(k):   wait released(k - kStages)        wait(k):    wait for the arrival, and for all bytes that it announced
//   publish(k): announce bytes, then bulk-load    release(k): one arrival a warp
//
// A stage belongs to one producer warp, so what that warp does with it needs no other order. Whoever gives up a wait tells all
// others through the fault word (sync/wait.cuh), the waits for stages as well.
#pragma once
#include "base/share.cuh"
#include "sync/wait.cuh"

namespace myelon {

// A stage's phase that is not over yet.
struct PhaseProbe {
  Mbarrier* barrier;
  u64 use;  // of the stage, from 0
  // ORDER: [stage-filled] [stage-emptied] consume: acquires what arrivals released; bytes that bulk loads brought come with it.
  MYELON_DEVICE bool ready() const { return mbarrier_try_wait_acquire_cta(barrier, static_cast<u32>(use) & 1); }
  MYELON_DEVICE u64 seen() const { return use; }
};

// No note beside a stage.
struct NoNote {};

// A stage has `kPlaces` places, one for each operand, and room for a note of its producer to its consumers.
template <class Config, u32 kPlaces, class Note = NoNote>
class Stages {
  static constexpr u32 kStages = Config::kStages;
  static constexpr u32 kProducerWarps = Config::kProducerWarps;
  static constexpr u32 kConsumerWarps = Config::kThreads / kWarpThreads - kProducerWarps;
  static_assert(kProducerWarps >= 1 && kProducerWarps <= kStages, "a stage belongs to one producer warp");
  static_assert(kConsumerWarps >= 1 && kConsumerWarps <= 31, "producer and consumer warps make up the CTA");
  static_assert(Config::kStagePacks >= kPlaces, "a place holds a pack or more for each consumer thread");

  struct Flags {
    Mbarrier filled[kStages];
    Mbarrier emptied[kStages];
    Note note[kStages];
  };
  static_assert(sizeof(Flags) <= kStageFlagBytes, "Stages needs more than the host gives it");

 public:
  // Packs of a piece that each consumer thread has, and all of them.
  static constexpr u32 kThreadPacks = Config::kStagePacks / kPlaces;
  static constexpr u64 kPiecePacks = kConsumerWarps * kWarpThreads * kThreadPacks;
  // The consumer thread that speaks for all.
  static constexpr u32 kTalker = kProducerWarps * kWarpThreads;

  // By all threads; in use after the next barrier of the CTA.
  MYELON_DEVICE explicit Stages(const Context& context) : context_(context) {
    if (thread_index() != 0) return;
    for (u32 stage = 0; stage < kStages; ++stage) {
      // ORDER: [stage-filled] [stage-emptied] publish: plain stores, which the next barrier of the CTA hands on.
      mbarrier_init(&flags()->filled[stage], 1);
      mbarrier_init(&flags()->emptied[stage], kConsumerWarps);
    }
    // ORDER: [bulk-load] publish: the mbarriers are there before the async proxy counts on them.
    fence_proxy_async();
  }

  MYELON_DEVICE bool is_producer() const { return warp_index() < kProducerWarps; }
  // The consumer threads as a team.
  MYELON_DEVICE Strided consumers() const { return {thread_index() - kTalker, kConsumerWarps * kWarpThreads}; }

  MYELON_DEVICE u8* place(u64 piece, u32 operand) const {
    return shared_memory() + kStageFlagBytes + ((piece % kStages) * kPlaces + operand) * kPiecePacks * kPackBytes;
  }

  // Pack `index` of an operand.
  MYELON_DEVICE Bytes16* pack(u64 piece, u32 operand, u64 index) const {
    return reinterpret_cast<Bytes16*>(place(piece, operand)) + index;
  }

  // Written by who publishes the piece, before it does; read by all who have waited for it, until they release it.
  MYELON_DEVICE Note* note(u64 piece) const { return &flags()->note[piece % kStages]; }

  // Producer warps. Whether this warp fills the piece.
  MYELON_DEVICE bool fills(u64 piece) const { return (piece % kStages) % kProducerWarps == warp_index(); }

  // Waits until the stage of a piece is free; false when given up.
  MYELON_DEVICE bool claim(u64 piece) const { return piece < kStages || wait_released(piece - kStages); }

  // One thread of the warp, after a barrier of the warp if others have stored to the stage; then it loads `bytes`, of what it
  // has acquired itself.
  MYELON_DEVICE void publish(u64 piece, u32 bytes) const {
    // ORDER: [bulk-load] consume: takes what this thread has acquired, peers' stores and the consumers' accesses to the stage,
    // to the async proxy, before the loads.
    fence_proxy_async();
    // ORDER: [stage-filled] publish: what the warp stored to the stage is before this release; the phase waits for the bytes.
    mbarrier_arrive_expect_release_cta(&flags()->filled[piece % kStages], bytes);
  }

  // After publish, by the same thread.
  MYELON_DEVICE void load(u64 piece, u32 operand, const void* from, u32 bytes) const {
    // ORDER: [bulk-load] [stage-filled] publish: its end counts on the mbarrier, and shows to who acquires the phase.
    if (bytes != 0) bulk_load(place(piece, operand), from, bytes, &flags()->filled[piece % kStages]);
  }

  // Waits for the loads into this warp's stages, of pieces before `end`: a CTA must not leave while its memory is written.
  MYELON_DEVICE void drain(u64 end) const {
    for (u64 piece = end > kStages ? end - kStages : 0; piece < end; ++piece) {
      // Bounded by the hardware: what fills a stage has arrived itself before it goes on.
      while (fills(piece) && !probe(flags()->filled, piece).ready()) poll_pause();
    }
  }

  // The thread that bulk-stores from stages. Ends its stores: whom it signals next finds them.
  MYELON_DEVICE void settle() const {
    // ORDER: [bulk-store] publish: the stores are in place, not only read.
    bulk_store_wait();
    // ORDER: [bulk-store] publish: back in the generic proxy, before the barrier signals.
    fence_proxy_async();
  }

  // Consumer warps, all threads. Waits until a piece is there; false on the whole warp when one of its waits was given up.
  MYELON_DEVICE bool wait(u64 piece) const {
    // ORDER: [stage-filled] load-sync: every thread has acquired for itself; all go on, or none.
    return sync_warp_and(wait_for_phase(flags()->filled, piece));
  }

  // Gives the stage of a piece back.
  MYELON_DEVICE void release(u64 piece) const {
    // ORDER: [stage-emptied] load-sync: the warp's accesses to the stage are before its first thread's release.
    sync_warp();
    // ORDER: [stage-emptied] credit: and so before whatever follows an acquire of the phase.
    if (warp_lane() == 0) mbarrier_arrive_release_cta(&flags()->emptied[piece % kStages]);
  }

  // Any thread. Waits until all consumer warps have released a piece, one of the last kStages; false when given up.
  MYELON_DEVICE bool wait_released(u64 piece) const {
    return wait_for_phase(flags()->emptied, piece);
  }

  // Consumer warps, all threads, after `release`. The talker waits until all warps have released a piece; false on its whole
  // warp when given up. The others go on.
  MYELON_DEVICE bool all_released(u64 piece) const {
    // ORDER: [stage-emptied] load-sync: the talker's warp goes on as one, or not at all.
    return sync_warp_and(thread_index() != kTalker || wait_released(piece));
  }

 private:
  MYELON_DEVICE Flags* flags() const { return reinterpret_cast<Flags*>(shared_memory()); }

  // INVARIANT: whoever asks holds up the phase after the one asked for, so the parity cannot be that of a later one.
  static MYELON_DEVICE PhaseProbe probe(Mbarrier* barriers, u64 piece) {
    return {&barriers[piece % kStages], piece / kStages};
  }

  MYELON_DEVICE bool wait_for_phase(Mbarrier* barriers, u64 piece) const {
    PhaseProbe phase = probe(barriers, piece);
    for (u32 poll = 0; poll < kHotPolls; ++poll) {
      if (phase.ready()) return true;
      poll_pause();
    }
    return cold_wait(context_, phase, context_.args.rank, phase.use + 1, 2);
  }

  const Context context_;
};

}  // namespace myelon
