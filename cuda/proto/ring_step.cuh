// ring_step: the steps of an all-reduce round the ring, for one lane, wherever its operands come from and go to.
//
// Shard s starts at rank s as its input, gathers rank s + 1, s + 2, ... on its way round, is complete at rank s - 1, and goes
// round once more as the result. What rank r does:
//
//   step 0            in[r]                --> slot of r + 1
//   steps 1 .. n-2    slot + in            --> slot of r + 1
//   step n-1          slot + in = result   --> out, slot of r + 1
//   steps n .. 2n-3   slot                 --> out, slot of r + 1
//   step 2n-2         slot                 --> out
//
// Where outputs are direct, results go into the next rank's output in place of its slot, and are forwarded from the own one:
//
//   step n-1          slot + in = result   --> out, out of r + 1
//   steps n .. 2n-3   out                  --> out of r + 1
//   step 2n-2         nothing: the result lies in out
#pragma once
#include "base/share.cuh"
#include "reduce/operator.cuh"

namespace myelon {

// A lane's share of the message, gone through in rounds of n chunks.
template <u32 kWorldSize>
class RingSchedule {
 public:
  static constexpr u32 kSteps = 2 * kWorldSize - 1;

  MYELON_DEVICE RingSchedule(const Args& args, Share share, u32 chunk_bytes)
      : rounds_(share, static_cast<u64>(chunk_bytes) / kPackBytes * kWorldSize), rank_(args.rank) {}

  MYELON_DEVICE u64 rounds() const { return rounds_.count; }

  // The packs of the message that a round goes through.
  MYELON_DEVICE Share part(u64 round) const { return rounds_.at(round); }

  // Those that this rank handles at a step of the round: none, at the end of a short message.
  MYELON_DEVICE Share chunk(Share part, u32 step) const {
    return cut(part.first, part.packs, kWorldSize, (rank_ + 2 * kWorldSize - step) % kWorldSize);
  }

  static MYELON_DEVICE bool receives(u32 step) { return step > 0; }
  static MYELON_DEVICE bool reads_input(u32 step) { return step < kWorldSize; }
  static MYELON_DEVICE bool sends(u32 step) { return step + 1 < kSteps; }
  // Whether what is sent is a result, and whether what is received is.
  static MYELON_DEVICE bool sends_result(u32 step) { return step + 1 >= kWorldSize && sends(step); }
  static MYELON_DEVICE bool receives_result(u32 step) { return step >= kWorldSize; }

 private:
  const Rounds rounds_;
  const u32 rank_;
};

// Does a step's work on `packs` packs. `input(i)` and `slot(i)` load a pack, `send(i, pack)` stores it into the next rank's
// slot, `keep(i, pack)` into the output.
template <u32 kUnroll, class T, class Op, u32 kWorldSize, class Input, class Slot, class Send, class Keep>
MYELON_DEVICE void ring_step(u32 step, Strided mine, u64 packs, Input input, Slot slot, Send send, Keep keep) {
  auto reduced = [&](u64 i) {
    PackReducer<T, Op> reducer(slot(i));
    reducer.add(input(i));
    return reducer;
  };
  auto send_and_keep = [&](u64 i, Pack<T> pack) {
    send(i, pack);
    keep(i, pack);
  };
  if (kWorldSize == 1) {
    for_each_pack<kUnroll, T>(mine, packs, [&](u64 i) { return PackReducer<T, Op>(input(i)).result(1); }, keep);
  } else if (step == 0) {
    for_each_pack<kUnroll, T>(mine, packs, input, send);
  } else if (step < kWorldSize - 1) {
    for_each_pack<kUnroll, T>(mine, packs, [&](u64 i) { return reduced(i).partial(); }, send);
  } else if (step == kWorldSize - 1) {
    for_each_pack<kUnroll, T>(mine, packs, [&](u64 i) { return reduced(i).result(kWorldSize); }, send_and_keep);
  } else if (RingSchedule<kWorldSize>::sends(step)) {
    for_each_pack<kUnroll, T>(mine, packs, slot, send_and_keep);
  } else {
    for_each_pack<kUnroll, T>(mine, packs, slot, keep);
  }
}

}  // namespace myelon
