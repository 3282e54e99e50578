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
  MYELON_DEVICE u64 seen() const { return ld_relaxed_sys(reinterpret_cast<const u64*>(mailbox.address(source, index))); }
};

// Polls until the parcel has come; false when the wait was given up.
template <class Mailbox>
MYELON_DEVICE bool await(const Context& context, const Mailbox& mailbox, u32 source, u64 index,
                         typename Mailbox::Parcel* parcel) {
  for (u32 poll = 0; !parcel->arrived(); ++poll) {
    if (poll == kHotPolls) {
      ParcelProbe<Mailbox> probe{mailbox, source, index};
      if (!cold_wait(context, probe, source, context.operation)) return false;
      poll = 0;
    }
    poll_pause();
    *parcel = mailbox.poll(source, index);
  }
  return true;
}

// Pack `index` of `source`; false when the wait for it was given up.
template <class Mailbox, class T>
MYELON_DEVICE bool receive(const Context& context, const Mailbox& mailbox, u32 source, u64 index, Pack<T>* pack) {
  typename Mailbox::Parcel parcel = mailbox.poll(source, index);
  if (!await(context, mailbox, source, index, &parcel)) return false;
  *pack = parcel.pack();
  return true;
}

// Packs of several cells: `cell(k, &source, &index)` says where pack k comes, or false if there is none. All polls are under
// way at once: their latencies overlap.
template <u32 kMost, class Mailbox, class T, class Cell>
MYELON_DEVICE bool receive_all(const Context& context, const Mailbox& mailbox, Cell cell, Pack<T> (&packs)[kMost]) {
  typename Mailbox::Parcel parcels[kMost];
  u32 source[kMost];
  u64 index[kMost];
  bool due[kMost];
  MYELON_UNROLL
  for (u32 k = 0; k < kMost; ++k) {
    due[k] = cell(k, &source[k], &index[k]);
    if (due[k]) parcels[k] = mailbox.poll(source[k], index[k]);
  }
  MYELON_UNROLL
  for (u32 k = 0; k < kMost; ++k) {
    if (!due[k]) continue;
    if (!await(context, mailbox, source[k], index[k], &parcels[k])) return false;
    packs[k] = parcels[k].pack();
  }
  return true;
}

}  // namespace myelon
