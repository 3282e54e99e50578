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
  typename Mailbox::Route route;
  u64 index;
  MYELON_DEVICE bool ready() const { return mailbox.poll(route, index).arrived(); }
  // ORDER: [sentinel] [ll] consume: for the fault record only.
  MYELON_DEVICE u64 seen() const { return ld_relaxed_sys(reinterpret_cast<const u64*>(mailbox.address(route, index))); }
};

// A parcel that is waited for: pack `index` of rank `source`, or none if it is not due.
template <class Mailbox>
struct Cell {
  u32 source;
  typename Mailbox::Route route;
  u64 index;
  bool due;
};

// Receives parcels of several cells: `cell(k)` says where parcel k comes. False when the wait for one was given up. All polls of a
// round are under way at once: their latencies overlap.
template <u32 kMost, class Mailbox, class CellOf>
MYELON_DEVICE bool receive(const Context& context, const Mailbox& mailbox, CellOf cell,
                           typename Mailbox::Parcel (&parcels)[kMost]) {
  MYELON_UNROLL
  for (u32 k = 0; k < kMost; ++k) {
    const Cell<Mailbox> at = cell(k);
    if (at.due) parcels[k] = mailbox.poll(at.route, at.index);
  }
  for (u32 round = 0;; ++round) {
    u32 late = kMost;
    MYELON_UNROLL
    for (u32 k = 0; k < kMost; ++k) {
      if (cell(k).due && !parcels[k].arrived()) late = k;
    }
    if (late == kMost) return true;
    if (round == kHotPolls) {
      const Cell<Mailbox> at = cell(late);
      ParcelProbe<Mailbox> probe{mailbox, at.route, at.index};
      if (!cold_wait(context, probe, at.source, context.operation)) return false;
      round = 0;
    }
    pause_hot();
    MYELON_UNROLL
    for (u32 k = 0; k < kMost; ++k) {
      const Cell<Mailbox> at = cell(k);
      if (at.due && !parcels[k].arrived()) parcels[k] = mailbox.poll(at.route, at.index);
    }
  }
}

// Receives the parcel of one cell, as `receive` does. With paired waits two polls are under way, so that what lands just behind one of
// them is seen by the other, and not by one that has yet to leave.
template <class Mailbox>
MYELON_DEVICE bool receive_one(const Context& context, const Mailbox& mailbox, const Cell<Mailbox>& at,
                               typename Mailbox::Parcel (&parcel)[1]) {
  if constexpr (kWait != Wait::paired) return receive(context, mailbox, [&](u32) { return at; }, parcel);
  if (!at.due) return true;
  parcel[0] = mailbox.poll(at.route, at.index);
  typename Mailbox::Parcel other = mailbox.poll(at.route, at.index);
  for (u32 round = 0;; ++round) {
    if (parcel[0].arrived()) return true;
    pause_hot();
    parcel[0] = mailbox.poll(at.route, at.index);
    // WHY: copied only once it has arrived: a copy waits for the poll, and the next one would leave behind it.
    if (other.arrived()) {
      parcel[0] = other;
      return true;
    }
    pause_hot();
    other = mailbox.poll(at.route, at.index);
    if (round == kHotPolls) {
      ParcelProbe<Mailbox> probe{mailbox, at.route, at.index};
      if (!cold_wait(context, probe, at.source, context.operation)) return false;
      round = 0;
    }
  }
}

}  // namespace myelon
