// wait: every wait has three ends: the value came, the communicator was told to stop, the deadline passed.
//
// A wait polls `kHotPolls` times, which covers ranks that keep step, then goes cold: out of line, with a look at the clock, and
// at the own fault word and the peer's announcement every 20 us; one thread of the GPU looks at the host's abort word for all.
// What lies between two polls is the wait policy; it changes nothing about how a wait ends. The last two ends write a fault
// record and return false; the caller then skips what is left, stores nothing more to peers, and returns. Nothing traps, so
// the CUDA context lives.
#pragma once
#include "sync/context.cuh"

namespace myelon {

constexpr u64 kCheckIntervalNs = 20 * 1000;

// What a thread does between two polls. Mirror of `Wait` in src/types.rs.
//            hot     cold
// adaptive   bare    sleeps that grow: 32, 128, 512 ns
// spin       bare    bare
// yield      32 ns   32 ns
// paired     bare    as adaptive; where a thread waits for one parcel, two polls of it are under way
enum class Wait : u8 { adaptive, spin, yield, paired };

#ifndef MYELON_WAIT
#define MYELON_WAIT adaptive
#endif
// The policy of this kernel: an entry file is one kernel, and names it before it includes anything.
constexpr Wait kWait = Wait::MYELON_WAIT;
constexpr u32 kShortestSleepNs = 32;

MYELON_DEVICE void pause_hot() {
  if (kWait == Wait::yield) nanosleep(kShortestSleepNs);
  else poll_pause();
}

// After cold poll `poll`, from 0.
MYELON_DEVICE void pause_cold(u32 poll) {
  if (kWait == Wait::adaptive || kWait == Wait::paired) nanosleep(poll < 32 ? kShortestSleepNs : poll < 256 ? 128 : 512);
  else pause_hot();
}

// Number of the operation in a signature, relative to ours: 0 the same, negative behind. Wraps at 24 bits.
MYELON_DEVICE i32 operations_ahead(u64 signature, u64 operation) {
  const u32 difference = static_cast<u32>(signature >> kDescriptorBits) - static_cast<u32>(operation);
  return static_cast<i32>(difference << (32 - kOperationBits)) >> (32 - kOperationBits);
}

// What `source` announced last of the operations with the parity of `number`.
MYELON_DEVICE u64 announced(const Context& context, u32 source, u64 number) {
  // ORDER: [signature] consume: one word that stands for itself; a late or old one counts as agreement.
  return ld_relaxed_sys(context.signature(context.args.rank, source, number));
}

// Writes the first fault of this rank where the host reads it, and ends the waits of all peers. `peer_code` with a peer's
// fault: what it was.
// INVARIANT: when a kernel has ended without its data, all ranks have been told: by this rank, whoever was the first to give up.
MYELON_DEVICE_COLD void give_up(Context context, FaultCode code, u32 peer, u64 expected, u64 seen, u64 waited_ns,
                                u32 peer_code = kFaultNone) {
  const Args& args = context.args;
  // ORDER: [fault] credit: one thread of the rank may write the record; the exchange alone decides, nothing is read behind it.
  if (atomic_exchange_relaxed_gpu(&context.state()->fault_claimed, 1) != 0) return;
  FaultRecord* record = &args.control->fault;
  record->lane = context.lane;
  record->peer = peer;
  record->peer_code = peer_code;
  record->expected = expected;
  record->seen = seen;
  record->operation = context.operation;
  record->waited_ns = waited_ns;
  for (u32 rank = 0; rank < kMaxWorld; ++rank) {
    u64 started = 0;
    if (args.heap[rank] != nullptr) {
      // The newer of the two announcements.
      const i32 even = operations_ahead(announced(context, rank, 0), context.operation);
      const i32 odd = operations_ahead(announced(context, rank, 1), context.operation);
      started = context.operation + static_cast<i64>(even > odd ? even : odd);
    }
    record->started[rank] = started;
  }
  // ORDER: [fault] publish: the record is published to the host by its code.
  st_release_sys(&record->code, static_cast<u32>(code));
  // A peer's word is passed on as it is: it says what happened.
  const u64 told = code == kFaultPeer ? static_cast<u64>(peer_code) << 32 | (peer + 1) : static_cast<u64>(code) << 32 | (args.rank + 1);
  for (u32 rank = 0; rank < kMaxWorld; ++rank) {
    if (args.heap[rank] != nullptr) {
      // ORDER: [peer-fault] publish: the word is all there is to read.
      st_relaxed_sys(&context.in_heap<HeapState>(rank, args.layout.state)->peer_fault, told);
    }
  }
}

// Whether a rank has given up; then this one does as well. `probe` as for `cold_wait`.
template <class Probe>
MYELON_DEVICE bool heard_of_fault(const Context& context, const Probe& probe, u64 expected, u64 waited_ns) {
  // ORDER: [peer-fault] consume: nothing is read behind the word.
  const u64 told = ld_relaxed_sys(&context.state()->peer_fault);
  if (told == 0) return false;
  give_up(context, kFaultPeer, static_cast<u32>(told) - 1, expected, probe.seen(), waited_ns, static_cast<u32>(told >> 32));
  return true;
}

MYELON_DEVICE u64 descriptor_in(u64 signature) { return signature & ((1ull << kDescriptorBits) - 1); }

// Whether what a peer announced is `descriptor` for operation `number`, or is not of that operation.
MYELON_DEVICE bool agrees(u64 signature, u64 number, u64 descriptor) {
  return signature == 0 || operations_ahead(signature, number) != 0 || descriptor_in(signature) == descriptor;
}

// Whether the host told this rank to stop. Its word lies in host memory, behind PCIe, so one thread of the whole GPU looks
// at it per interval and tells the others through `peer_fault`. When every cold thread looked for itself, 64 lanes of 512
// took 2.3 ms to leave a wait that was over (4x H200, 2026-11-21), and ranks that slowed each other down never caught up.
MYELON_DEVICE bool host_says_stop(const Context& context, u64 now) {
  u64* next_look = &context.state()->next_host_look_ns;
  // ORDER: [abort] credit: whoever moves the time on may look; two that look at once do no harm.
  if (ld_relaxed_sys(next_look) > now || atomic_exchange_relaxed_gpu(next_look, now + kCheckIntervalNs) > now) return false;
  // ORDER: [abort] consume: nothing is read behind the word; the host knows its own reason (src/watch).
  return ld_relaxed_sys(&context.args.control->abort) != 0;
}

// The cold half of a wait. `probe.ready()` reads what is waited for; `probe.seen()` is what it read last. `deadlines`: how many
// of them it has; more than one if it waits for threads that wait for a peer themselves, and know better what is wrong.
template <class Probe>
MYELON_DEVICE_COLD bool cold_wait(Context context, Probe probe, u32 peer, u64 expected, u64 deadlines = 1) {
  const Args& args = context.args;
  const u64 start = global_timer_ns();
  u64 next_check = start + kCheckIntervalNs;
  for (u32 poll = 0;; ++poll) {
    if (probe.ready()) return true;
    pause_cold(poll);
    const u64 now = global_timer_ns();
    if (now < next_check) continue;
    next_check = now + kCheckIntervalNs;
    const u64 waited = now - start;
    // WHY: the host first, but the peer's word counts more: when a peer's kernel gives up, both hosts hear of it later, and
    // what the kernel says is the reason.
    const bool told_to_stop = host_says_stop(context, now);
    if (heard_of_fault(context, probe, expected, waited)) return false;
    if (told_to_stop) {
      give_up(context, kFaultAborted, peer, expected, probe.seen(), waited);
      return false;
    }
    const u64 theirs = announced(context, peer, context.operation);
    if (!agrees(theirs, context.operation, args.descriptor)) {
      give_up(context, kFaultMismatch, peer, args.descriptor, descriptor_in(theirs), waited);
      return false;
    }
    if (args.deadline_ns != 0 && waited > args.deadline_ns * deadlines) {
      give_up(context, kFaultStalled, peer, expected, probe.seen(), waited);
      return false;
    }
  }
}

// A sequence that only grows.
struct SequenceProbe {
  const u64* address;
  u64 target;
  u64 value;
  MYELON_DEVICE bool ready() {
    // ORDER: [signal] [slot-publish] [slot-release] [copy-arrived] [copy-taken] [copy-credit] consume: acquires what the writer of
    // the sequence released with it.
    value = ld_acquire_sys(address);
    return value >= target;
  }
  MYELON_DEVICE u64 seen() const { return value; }
};

// Waits until the sequence at `address`, written by `peer`, has reached `target`. `reached`, if given, gets a value that it
// has reached, at least `target`. `deadlines` as for `cold_wait`.
MYELON_DEVICE bool wait_for_sequence(const Context& context, const u64* address, u64 target, u32 peer, u64* reached = nullptr,
                                     u64 deadlines = 1) {
  SequenceProbe probe{address, target, 0};
  for (u32 poll = 0; poll < kHotPolls; ++poll) {
    if (probe.ready()) {
      if (reached != nullptr) *reached = probe.value;
      return true;
    }
    pause_hot();
  }
  if (reached != nullptr) *reached = target;
  return cold_wait(context, probe, peer, target, deadlines);
}

// What a peer says of the running operation.
struct AnnouncementProbe {
  Context context;
  u32 peer;
  u64 value;
  MYELON_DEVICE bool ready() {
    value = announced(context, peer, context.operation);
    return operations_ahead(value, context.operation) == 0;
  }
  MYELON_DEVICE u64 seen() const { return value; }
};

// Waits until `peer` has announced the running operation, and says whether it is the same there: before anything is stored where
// only this rank's arguments say that it belongs.
// INVARIANT: true only where no rank had given up and ended its kernel before this launch began, for this one would have heard of it
// ([peer-fault]): from then on memory that is stored into may go.
MYELON_DEVICE bool wait_for_agreement(const Context& context, u32 peer) {
  AnnouncementProbe probe{context, peer, 0};
  bool is_ready = probe.ready();
  for (u32 poll = 0; !is_ready && poll < kHotPolls; ++poll) {
    pause_hot();
    is_ready = probe.ready();
  }
  // A wait that goes cold compares for itself, but for what comes last.
  if (!is_ready && !cold_wait(context, probe, peer, context.operation)) return false;
  const u64 theirs = is_ready ? probe.value : announced(context, peer, context.operation);
  if (agrees(theirs, context.operation, context.args.descriptor)) {
    return !heard_of_fault(context, probe, context.operation, 0);
  }
  give_up(context, kFaultMismatch, peer, context.args.descriptor, descriptor_in(theirs), 0);
  return false;
}

}  // namespace myelon
