// mailbox: waiting for packs from every rank at once, for any mailbox protocol.
#pragma once
#include "proto/ll.cuh"
#include "proto/sentinel.cuh"

namespace myelon {

// The mailbox for floats with a sentinel to spare, or the one for everything.
template <class T, bool kSentinel>
struct MailboxFor {
  using Type = LlMailbox<T>;
};
template <class T>
struct MailboxFor<T, true> {
  using Type = SentinelMailbox<T>;
};

// One parcel that has not come yet.
template <class Mailbox>
struct ParcelProbe {
  Mailbox mailbox;
  u32 source;
  u64 index;
  MYELON_DEVICE bool ready() const { return mailbox.poll(source, index).arrived(); }
  // ORDER: [sentinel] [ll] consume: for the fault record only.
  MYELON_DEVICE u64 seen() const { return ld_relaxed_sys(reinterpret_cast<const u64*>(mailbox.address(source, index))); }
};

// Pack `index` of every rank, in rank order. All polls are under way at once: their latencies overlap.
template <u32 kWorldSize, class Mailbox, class T>
MYELON_DEVICE bool receive_all(const Context& context, const Mailbox& mailbox, u64 index, Pack<T> (&packs)[kWorldSize]) {
  typename Mailbox::Parcel parcels[kWorldSize];
  MYELON_UNROLL
  for (u32 source = 0; source < kWorldSize; ++source) parcels[source] = mailbox.poll(source, index);
  MYELON_UNROLL
  for (u32 source = 0; source < kWorldSize; ++source) {
    for (u32 poll = 0; !parcels[source].arrived(); ++poll) {
      if (poll == kHotPolls) {
        ParcelProbe<Mailbox> probe{mailbox, source, index};
        if (!cold_wait(context, probe, source, context.operation)) return false;
        poll = 0;
      }
      poll_pause();
      parcels[source] = mailbox.poll(source, index);
    }
    packs[source] = parcels[source].pack();
  }
  return true;
}

}  // namespace myelon
