// ring_specialized: the ring with warps that fetch operands into shared memory, ahead of the warps that reduce and send them.
//
// WHAT   As ring, a chunk in pieces:
//        own slot, in --bulk loads--> stages --> reduce --> slot of r + 1, out
// WHO    A producer warp waits for slot and credit, then loads a piece of the slot and of the input into a stage. The consumer
//        warps reduce from stages and store to the next rank's slot; their talker publishes and releases slots. Only producer
//        warps wait for peers; what they learn reaches the consumers with the stage. Which piece that is, consumers know by going
//        through the same list, or read from a note (kNotes).
// ORDER  [slot-publish] [slot-release] between ranks (proto/slot_ring.cuh), [stage-filled] [stage-emptied] between warps
//        (proto/stages.cuh), [bulk-load] from the peer's stores to our loads.
// COST   As ring, with up to kStages pieces on the way to shared memory and none held in registers.
//        Shared memory: kStages x kStagePacks x 16 bytes a consumer thread.
#pragma once
#include "proto/ring_step.cuh"
#include "proto/slot_ring.cuh"
#include "proto/stages.cuh"

namespace myelon {

// The operands in a stage.
constexpr u32 kSlotPlace = 0;
constexpr u32 kInputPlace = 1;

// Part of a chunk that fills a stage.
struct RingPiece {
  u64 number;  // of the launch
  u32 step;
  bool ends_chunk;
  bool ends_share;
  u64 offset;  // in the chunk and its slot, in packs
  Share packs;
};

// Calls `visit` with the lane's pieces in order, as producers and consumers both see them; ends when it returns false.
// An empty chunk has one empty piece: its slot goes round like any other.
template <u64 kPiecePacks, u32 kWorldSize, class Visit>
MYELON_DEVICE void for_each_piece(const RingSchedule<kWorldSize>& schedule, Visit visit) {
  u64 number = 0;
  for (u64 round = 0; round < schedule.rounds(); ++round) {
    const Share part = schedule.part(round);
    for (u32 step = 0; step < RingSchedule<kWorldSize>::kSteps; ++step) {
      const Share chunk = schedule.chunk(part, step);
      u64 offset = 0;
      do {
        const u64 left = chunk.packs - offset;
        const u64 packs = left < kPiecePacks ? left : kPiecePacks;
        const bool ends_share = packs == left && step + 1 == RingSchedule<kWorldSize>::kSteps && round + 1 == schedule.rounds();
        if (!visit(RingPiece{number, step, packs == left, ends_share, offset, {chunk.first + offset, packs}})) return;
        ++number;
        offset += packs;
      } while (offset < chunk.packs);
    }
  }
}

template <class T, class Op, class Config>
MYELON_DEVICE void ring_specialized(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  using Schedule = RingSchedule<kWorldSize>;
  using Pipeline = Stages<Config, 2, RingPiece>;
  const Context context(args);
  Producer sender(context, (args.rank + 1) % kWorldSize, Pipeline::kTalker);
  Consumer receiver(context, (args.rank + kWorldSize - 1) % kWorldSize, Pipeline::kTalker);
  const Pipeline stages(context);
  Announcement(context, kWorldSize).check(context);
  advance_operation(context, MailboxUse{});
  const Schedule schedule(args, lane_share(pack_count<T>(args.count)), args.chunk_bytes);

  if (stages.is_producer()) {
    // Whole packs of an aligned input go by bulk loads, the others through this warp's registers.
    const u64 bulk_packs = is_pack_aligned(args.input) ? args.count / Pack<T>::kElements : 0;
    u64 end = 0;
    for_each_piece<Pipeline::kPiecePacks>(schedule, [&](const RingPiece& piece) {
      const u64 k = piece.number;
      if (stages.fills(k)) {
        bool ready = stages.claim(k);
        if (ready && warp_lane() == 0) {
          // Both at once as far as it matters: the later of the two decides.
          ready = (!Schedule::sends(piece.step) || sender.claim()) && (!Schedule::receives(piece.step) || receiver.wait());
        }
        // ORDER: [slot-publish] [slot-release] [stage-emptied] load-sync: the first thread's waits are the warp's, so all go on,
        // or none.
        if (!sync_warp_and(ready)) return false;

        const u64 first = piece.packs.first;
        u64 whole = 0;
        if (Schedule::reads_input(piece.step)) {
          whole = bulk_packs <= first ? 0 : bulk_packs - first < piece.packs.packs ? bulk_packs - first : piece.packs.packs;
          for (u64 i = whole + warp_lane(); i < piece.packs.packs; i += kWarpThreads) {
            *stages.pack(k, kInputPlace, i) = load_pack<T>(args.input, first + i, args.count).bytes;
          }
          // ORDER: [stage-filled] load-sync: the warp's stores to the stage are before what its first thread publishes.
          sync_warp();
        }
        if (warp_lane() == 0) {
          if (Config::kNotes) *stages.note(k) = piece;
          const u64 slot_packs = Schedule::receives(piece.step) ? piece.packs.packs : 0;
          // What the previous rank stored to the slot was acquired by this thread, in `wait`.
          stages.publish(k, static_cast<u32>((slot_packs + whole) * kPackBytes));
          const u8* slot = receiver.slot() + piece.offset * kPackBytes;
          stages.load(k, kSlotPlace, slot, static_cast<u32>(slot_packs * kPackBytes));
          const u8* input = static_cast<const u8*>(args.input) + first * kPackBytes;
          stages.load(k, kInputPlace, input, static_cast<u32>(whole * kPackBytes));
        }
      }
      end = k + 1;
      if (piece.ends_chunk && Schedule::receives(piece.step)) receiver.release();
      if (piece.ends_chunk && Schedule::sends(piece.step)) sender.publish();
      return true;
    });
    // The CTA's memory stays until its last thread leaves.
    if (warp_lane() == 0) stages.drain(end);
    return;
  }

  // What the consumer warps do with a piece that is there; false when a wait was given up.
  auto consume = [&](const RingPiece& piece) {
    const u64 k = piece.number;
    if (piece.ends_chunk && Schedule::receives(piece.step)) {
      // ORDER: [bulk-load] [slot-release] credit: the loads from the slot, whose end this thread has seen, are before the
      // credit.
      if (thread_index() == Pipeline::kTalker) fence_proxy_async();
      receiver.release();
    }
    auto staged = [&](u32 operand) {
      return [&stages, k, operand](u64 i) {
        Pack<T> pack;
        pack.bytes = *stages.pack(k, operand, i);
        return pack;
      };
    };
    u8* sent = sender.slot() + piece.offset * kPackBytes;
    ring_step<Pipeline::kThreadPacks, T, Op, kWorldSize>(
        piece.step, stages.consumers(), piece.packs.packs, staged(kInputPlace), staged(kSlotPlace),
        [&](u64 i, Pack<T> pack) { st_weak_16(sent + i * kPackBytes, pack.bytes); },
        [&](u64 i, Pack<T> pack) { store_pack(args.output, piece.packs.first + i, args.count, pack); });
    stages.release(k);
    if (piece.ends_chunk && Schedule::sends(piece.step)) {
      if (!stages.all_released(k)) return false;
      sender.publish();
    }
    return true;
  };
  bool done = true;
  if (Config::kNotes) {
    // Told by notes: no warp goes through the schedule again.
    bool is_last = schedule.rounds() == 0;
    for (u64 k = 0; done && !is_last; ++k) {
      done = stages.wait(k);
      if (!done) break;
      const RingPiece piece = *stages.note(k);
      is_last = piece.ends_share;
      done = consume(piece);
    }
  } else {
    for_each_piece<Pipeline::kPiecePacks>(schedule, [&](const RingPiece& piece) {
      done = stages.wait(piece.number) && consume(piece);
      return done;
    });
  }
  if (!done) return;
  sender.finish();
  receiver.finish();
}

}  // namespace myelon
