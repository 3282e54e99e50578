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

// Receives parcels of several cells: `cell(k, &source, &index)` says where parcel k comes, or false if there is none. False
// when the wait for one was given up. All polls of a round are under way at once: their latencies overlap.
template <u32 kMost, class Mailbox, class Cell>
MYELON_DEVICE bool receive(const Context& context, const Mailbox& mailbox, Cell cell,
                           typename Mailbox::Parcel (&parcels)[kMost]) {
  u32 source;
  u64 index;
  MYELON_UNROLL
  for (u32 k = 0; k < kMost; ++k) {
    if (cell(k, &source, &index)) parcels[k] = mailbox.poll(source, index);
  }
  for (u32 round = 0;; ++round) {
    u32 late = kMost;
    MYELON_UNROLL
    for (u32 k = 0; k < kMost; ++k) {
      if (cell(k, &source, &index) && !parcels[k].arrived()) late = k;
    }
    if (late == kMost) return true;
    if (round == kHotPolls) {
      cell(late, &source, &index);
      ParcelProbe<Mailbox> probe{mailbox, source, index};
      if (!cold_wait(context, probe, source, context.operation)) return false;
      round = 0;
    }
    pause_hot();
    MYELON_UNROLL
    for (u32 k = 0; k < kMost; ++k) {
      if (cell(k, &source, &index) && !parcels[k].arrived()) parcels[k] = mailbox.poll(source, index);
    }
  }
}

}  // namespace myelon
