// ll: packs are stored into the peers' mailboxes with a flag beside every four bytes of data (NCCL's LL protocol).
//
// A 64-bit half carries 32 bits of data and the 32-bit flag of the epoch, so a half is whole or absent: 64-bit accesses are
// single-copy atomic. Any type and any operator, at twice the bytes. Two buffers alternate; flags make poison unnecessary.
// INVARIANT: operation e of a peer stores to buffer e % 2, which we last read in e - 2; the peer finished e - 1, for which it
// needed our e - 1, which ran after our e - 2.
//
// The flag is the epoch's low bits, never zero. After a wrap an old line could carry a flag that is due again, so the two
// operations after a wrap first clear the buffer that is not in use. A peer stores there only after it has received this
// operation's packs from every CTA that sends any, and those share the clearing, each before it sends.
#pragma once
#include "base/pack.cuh"
#include "base/peers.cuh"
#include "sync/operation.cuh"

namespace myelon {

// Fewer bits make the wrap come soon enough for a test.
#if !defined(MYELON_LL_FLAG_BITS)
#define MYELON_LL_FLAG_BITS 32
#endif

// The mailboxes that this rank and `peer` have of each other, in the first buffer. Needs no memory: made before a launch's turn.
struct LlRoute {
  u8* to;    // ours, in the peer's heap
  u8* from;  // the peer's, in ours

  MYELON_DEVICE LlRoute(const Args& args, u32 peer)
      : to(args.heap[peer] + args.layout.ll + peer_index(peer, args.rank) * args.layout.ll_bytes * 2),
        from(args.own_heap + args.layout.ll + peer_index(args.rank, peer) * args.layout.ll_bytes * 2) {}
};

template <class T>
class LlMailbox {
 public:
  using Route = LlRoute;

  // What one poll returns: a pack's two lines of sixteen bytes.
  struct Parcel {
    Bytes16 line[2];
    u32 flag;
    MYELON_DEVICE bool arrived() const {
      return static_cast<u32>(line[0].half[0] >> 32) == flag && static_cast<u32>(line[0].half[1] >> 32) == flag &&
             static_cast<u32>(line[1].half[0] >> 32) == flag && static_cast<u32>(line[1].half[1] >> 32) == flag;
    }
    MYELON_DEVICE Pack<T> pack() const {
      Pack<T> pack;
      for (u32 k = 0; k < 2; ++k) pack.bytes.half[k] = (line[k].half[0] & ~0u) | line[k].half[1] << 32;
      return pack;
    }
  };

  // `senders`: how many threads of the grid, from the first on, have something to send; of each of their CTAs every peer's
  // result depends on some.
  // ORDER: [epoch] epoch: read before `step_counters`, which steps it for the next launch.
  MYELON_DEVICE LlMailbox(const Context& context, u32 world_size, u64 senders)
      : context_(context), world_size_(world_size), epoch_(ld_relaxed_sys(&context.counters()->ll_epoch)) {
    constexpr u64 kFlags = (1ull << MYELON_LL_FLAG_BITS) - 1;
    flag_ = static_cast<u32>(epoch_ % kFlags) + 1;
    buffer_ = epoch_ % kLlBuffers * buffer_bytes();
    if (flag_ <= kLlBuffers && epoch_ >= kLlBuffers) clear_other_buffer(senders);
  }

  MYELON_DEVICE Pack<T> as_received(Pack<T> pack) const { return pack; }

  MYELON_DEVICE void send(Route route, u64 index, Pack<T> pack) const {
    const u64 flag = static_cast<u64>(flag_) << 32;
    u8* to = route.to + buffer_ + index * kPackBytes * 2;
    MYELON_UNROLL
    for (u32 k = 0; k < 2; ++k) {
      const u64 half = pack.bytes.half[k];
      // ORDER: [ll] [ll-clear] publish: a half is data and flag in one 64-bit access. After a wrap, the lines that the peer
      // will store to next were cleared before this.
      st_relaxed_sys_16(to + k * kPackBytes, Bytes16{{(half & ~0u) | flag, half >> 32 | flag}});
    }
  }

  MYELON_DEVICE Parcel poll(Route route, u64 index) const {
    const u8* from = address(route, index);
    // ORDER: [ll] [ll-clear] consume: a half with the flag has the data; the peer's stores of the next operation follow.
    return {{ld_relaxed_sys_16(from), ld_relaxed_sys_16(from + kPackBytes)}, flag_};
  }

  MYELON_DEVICE const u8* address(Route route, u64 index) const { return route.from + buffer_ + index * kPackBytes * 2; }

  MYELON_DEVICE void tidy() const {}

  MYELON_DEVICE MailboxUse use(u64 packs) const { return {false, true, epoch_ + 1, packs * kPackBytes}; }

 private:
  MYELON_DEVICE u64 buffer_bytes() const { return (world_size_ - 1) * context_.args.layout.ll_bytes * 2; }

  // Only CTAs that send may clear, the others hold nobody up.
  MYELON_DEVICE void clear_other_buffer(u64 senders) const {
    const u64 lines = context_.args.layout.ll_bytes / kPackBytes;
    const u64 ctas = (senders + thread_count() - 1) / thread_count();
    const u64 threads = (ctas < cta_count() ? ctas : cta_count()) * thread_count();
    u64 index = static_cast<u64>(context_.lane) * thread_count() + thread_index();
    if (index >= threads) return;
    for (; index < lines; index += threads) {
      for (u32 source = 0; source < world_size_; ++source) {
        if (source == context_.args.rank) continue;
        u8* line = Route(context_.args, source).from + (buffer_bytes() - buffer_) + index * kPackBytes * 2;
        // ORDER: [ll-clear] reuse: no line carries a flag that is due again.
        st_relaxed_sys_16(line, Bytes16{{0, 0}});
        st_relaxed_sys_16(line + kPackBytes, Bytes16{{0, 0}});
      }
    }
    // ORDER: [ll-clear] load-sync: no thread of the CTA sends before all have cleared.
    sync_cta();
    // ORDER: [ll-clear] reuse: what the barrier handed on, other threads' clearing, is in place before what this thread sends.
    fence_acq_rel_sys();
  }

  const Context context_;
  const u32 world_size_;
  const u64 epoch_;
  u32 flag_;
  u64 buffer_;  // of this operation: its offset from the first
};

}  // namespace myelon
