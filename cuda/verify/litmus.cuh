// litmus: two ranks pass messages as the protocols do, without a kernel boundary in between, and count what must not happen.
//
// WHAT   Attempt t of a thread: send message t to the same thread of the partner, wait for the partner's message t, compare.
//        The partner's thread is at most one attempt ahead, so a cell that is used again one or two attempts later is free if,
//        and only if, the accesses are seen in the order that the pattern rests on.
// WHO    Threads are independent of each other; neighbours have neighbouring cells, as in a mailbox.
// COST   A thread's wait without news ends at the deadline, and the thread with it.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

// Mirror of tests/litmus.rs.
struct LitmusArgs {
  u8* own;     // [3][cell_bytes] of cells, then a flag of 8 bytes a thread
  u8* peer;    // the same of the partner
  u64* counts;  // LitmusCount
  u64 cell_bytes;
  u64 attempts;
  u64 deadline_ns;
};
static_assert(sizeof(LitmusArgs) == 48, "LitmusArgs differs from tests/litmus.rs");

enum LitmusCount : u32 {
  kLitmusReceived,  // messages
  kLitmusApart,     // polls that saw one half and not the other: allowed
  kLitmusTorn,      // polls that saw one word of a half and not the other
  kLitmusWrong,     // messages that were not the one that was due
  kLitmusLost,      // threads that waited in vain, and their partners
  kLitmusCounts,
};

// What a message takes for granted.
enum class Litmus {
  sentinel,         // as proto/sentinel.cuh: three buffers, poison before the next message
  ll,               // as proto/ll.cuh: two buffers
  release_acquire,  // as the slot ring; PTX guarantees it
  relaxed,          // the same with a relaxed flag: what goes wrong shows what release and acquire are for
  flag_first,       // the same with the flag before the data: wrong on every machine, or this counts nothing
};

// Word `place` of message `attempt`; never the sentinel.
MYELON_DEVICE u32 litmus_word(u64 attempt, u32 place) {
  u64 z = attempt * 0x9e3779b97f4a7c15ull + (place + 1) * 0xd1b54a32d192ed03ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  return static_cast<u32>(z >> 33);
}

template <Litmus kPattern>
MYELON_DEVICE Bytes16 litmus_message(u64 attempt) {
  Bytes16 message;
  MYELON_UNROLL
  for (u32 k = 0; k < 2; ++k) {
    const u64 upper = kPattern == Litmus::ll ? attempt & ~0u : litmus_word(attempt, 2 + k);
    message.half[k] = litmus_word(attempt, k) | upper << 32;
  }
  return message;
}

template <Litmus kPattern>
struct LitmusThread {
  static constexpr bool kHasFlag = kPattern != Litmus::sentinel && kPattern != Litmus::ll;
  static constexpr u64 kBuffers = kPattern == Litmus::sentinel ? 3 : 2;

  const LitmusArgs& args;
  u64 index;
  u64 count[kLitmusCounts];

  MYELON_DEVICE u8* cell(u8* base, u64 attempt) const {
    return base + attempt % kBuffers * args.cell_bytes + index * kPackBytes;
  }
  MYELON_DEVICE u64* flag(u8* base) const { return reinterpret_cast<u64*>(base + 3 * args.cell_bytes) + index; }

  MYELON_DEVICE void raise_flag(u64 attempt) const {
    u64* raised = flag(args.peer);
    // ORDER: [litmus] publish: the ring's store, or one that is too weak on purpose.
    kPattern == Litmus::release_acquire ? st_release_sys(raised, attempt) : st_relaxed_sys(raised, attempt);
  }

  // Makes the cell of the attempt before ready.
  MYELON_DEVICE void poison(u64 attempt) const {
    // ORDER: [litmus] reuse: before the next message, after which the partner stores here.
    st_relaxed_sys_16(cell(args.own, attempt + kBuffers - 1), Bytes16{{~0ull, ~0ull}});
  }

  MYELON_DEVICE void send(u64 attempt) const {
    const Bytes16 message = litmus_message<kPattern>(attempt);
    if (kPattern == Litmus::flag_first) {
      raise_flag(attempt);
      nanosleep(200);
    }
    if (kHasFlag) {
      st_weak_16(cell(args.peer, attempt), message);
    } else {
      // ORDER: [litmus] publish: the mailboxes' store.
      st_relaxed_sys_16(cell(args.peer, attempt), message);
    }
    if (kPattern == Litmus::sentinel) poison(attempt);
    if (kHasFlag && kPattern != Litmus::flag_first) raise_flag(attempt);
  }

  // Whether message `attempt` is there, and what it is.
  MYELON_DEVICE bool poll(u64 attempt, Bytes16* message) {
    if (kHasFlag) {
      // ORDER: [litmus] consume: the ring's load, or one that is too weak on purpose.
      const u64 seen = kPattern == Litmus::release_acquire ? ld_acquire_sys(flag(args.own)) : ld_relaxed_sys(flag(args.own));
      if (seen < attempt) return false;
      *message = ld_weak_16(cell(args.own, attempt));
      return true;
    }
    // ORDER: [litmus] consume: the mailboxes' load.
    *message = ld_relaxed_sys_16(cell(args.own, attempt));
    bool came[2];
    MYELON_UNROLL
    for (u32 k = 0; k < 2; ++k) {
      const u32 lower = static_cast<u32>(message->half[k]), upper = static_cast<u32>(message->half[k] >> 32);
      came[k] = kPattern == Litmus::ll ? upper == static_cast<u32>(attempt) : lower != ~0u && upper != ~0u;
      if (kPattern == Litmus::sentinel && (lower != ~0u) != (upper != ~0u)) ++count[kLitmusTorn];
    }
    if (came[0] != came[1]) ++count[kLitmusApart];
    return came[0] && came[1];
  }

  // False once nothing has come for as long as the deadline.
  MYELON_DEVICE bool receive(u64 attempt) {
    Bytes16 message;
    u64 start = 0;
    for (u32 polls = 1; !poll(attempt, &message); ++polls) {
      poll_pause();
      if (polls % 4096 != 0) continue;
      const u64 now = global_timer_ns();
      if (start == 0) start = now;
      if (now - start > args.deadline_ns) return false;
    }
    const Bytes16 due = litmus_message<kPattern>(attempt);
    ++count[kLitmusReceived];
    if (message.half[0] != due.half[0] || message.half[1] != due.half[1]) ++count[kLitmusWrong];
    return true;
  }

  MYELON_DEVICE void run() {
    for (u64 attempt = 1; attempt <= args.attempts; ++attempt) {
      send(attempt);
      if (!receive(attempt)) {
        ++count[kLitmusLost];
        break;
      }
      // Threads and ranks lose step now and then.
      const u32 draw = litmus_word(attempt, static_cast<u32>(index) + 4);
      if (draw % 64 == 0) nanosleep(draw / 64 % 2048);
    }
    for (u32 k = 0; k < kLitmusCounts; ++k) {
      // ORDER: [litmus] publish: a sum that many threads add to; the host reads it behind the stream.
      atomic_add_relaxed_gpu(&args.counts[k], count[k]);
    }
  }
};

template <Litmus kPattern>
MYELON_DEVICE void litmus(const LitmusArgs& args) {
  LitmusThread<kPattern>{args, static_cast<u64>(cta_index()) * thread_count() + thread_index(), {}}.run();
}

}  // namespace myelon
