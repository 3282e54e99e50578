// slot_step: one step of a lane's ring of slots, by all threads of the CTA alike: two waits at once, the work, two releases.
#pragma once
#include "proto/slot_ring.cuh"
#include "sync/phase.cuh"

namespace myelon {

// Packs of a thread under way at once. With 8, 1 GiB took 4650 us against 4659 at 64 lanes (4x H200, 2026-11-21): not worth
// the registers.
constexpr u32 kRingUnroll = 4;

// Waits for the slot that a step receives and for the credit of the one that it sends, lets `work(received, sent)` read the one and
// fill the other, and hands both on. `into_output`: what is sent lies in the next rank's output, and the slot stays empty. False when
// one of the waits was given up; `work` has not run then.
template <class Work>
MYELON_DEVICE bool slot_step(Producer& producer, Consumer& consumer, bool receives, bool sends, bool into_output, Work work) {
  bool ready = true;
  if (receives && thread_index() == kConsumerThread) ready = consumer.wait();
  if (sends && thread_index() == kProducerThread) ready = producer.claim() && (!into_output || producer.next_agrees());
  // ORDER: [slot-publish] [slot-release] load-sync: what the two threads acquired is visible to all, and all go on or none.
  if (!sync_cta_and(ready)) return false;

  work(consumer.slot(), producer.slot());

  // ORDER: [slot-publish] [slot-release] load-sync: the CTA's stores to one slot, or to the next rank's output, and reads of
  // the other are before what the two threads release.
  sync_cta();
  if (sends) producer.publish();
  if (receives) consumer.release();
  // ORDER: [strict] load-sync: nothing; the two threads have ordered their own releases, and the next step has a barrier.
  end_phase();
  return true;
}

}  // namespace myelon
