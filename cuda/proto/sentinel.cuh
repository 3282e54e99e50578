// sentinel: packs are stored straight into the peers' mailboxes, and a reserved value means "not yet" (Lamport's idea).
//
// No flag, no fence, no barrier: the data is its own announcement. The reserved value is the NaN whose bits are all ones;
// an input that is that very NaN loses its sign bit on the way in, which no operator can tell from any other NaN. So signed
// zeros survive (a -0.0 sentinel would lose them), every operator of every float type works, and a mailbox at rest is all
// 0xff bytes whatever was last sent through it.
//
// A mailbox has three buffers. Operation e fills buffer e % 3 of every peer, and re-poisons its own buffer (e - 1) % 3.
// INVARIANT: nobody stores to the buffer being re-poisoned. Its next writer is operation e + 2 of a peer, which comes after
// that peer finished e + 1, for which it needed our e + 1, which runs after this launch.
// WHY nothing beyond relaxed: a half is either the sentinel or data, and each half is one 64-bit access. That the value a
// poll returns is never older than one an earlier poll returned is coherence. Allow-listed by architecture in variants.toml.
#pragma once
#include "base/peers.cuh"
#include "base/share.cuh"
#include "sync/operation.cuh"

namespace myelon {

// The unit in which a sentinel is recognised: two 32-bit words a half, or one 64-bit double.
template <u32 kElementBytes>
struct SentinelWord {
  static MYELON_DEVICE u32 sanitize(u32 word) { return word == ~0u ? word & 0x7fffffffu : word; }
  static MYELON_DEVICE u64 sanitize(u64 half) {
    return sanitize(static_cast<u32>(half)) | static_cast<u64>(sanitize(static_cast<u32>(half >> 32))) << 32;
  }
  static MYELON_DEVICE bool arrived(u64 half) {
    return static_cast<u32>(half) != ~0u && static_cast<u32>(half >> 32) != ~0u;
  }
};

template <>
struct SentinelWord<8> {
  static MYELON_DEVICE u64 sanitize(u64 half) { return half == ~0ull ? half & ~(1ull << 63) : half; }
  static MYELON_DEVICE bool arrived(u64 half) { return half != ~0ull; }
};

// The mailboxes that this rank and `peer` have of each other, in the first buffer. Needs no memory: made before a launch's turn.
struct SentinelRoute {
  u8* to;    // ours, in the peer's heap
  u8* from;  // the peer's, in ours

  MYELON_DEVICE SentinelRoute(const Args& args, u32 peer)
      : to(args.heap[peer] + args.layout.sentinel + peer_index(peer, args.rank) * args.layout.sentinel_bytes),
        from(args.own_heap + args.layout.sentinel + peer_index(args.rank, peer) * args.layout.sentinel_bytes) {}
};

template <class T>
class SentinelMailbox {
 public:
  using Route = SentinelRoute;
  using Word = SentinelWord<sizeof(T)>;

  // What one poll returns: the pack itself.
  struct Parcel {
    Bytes16 bytes;
    MYELON_DEVICE bool arrived() const { return Word::arrived(bytes.half[0]) && Word::arrived(bytes.half[1]); }
    MYELON_DEVICE Pack<T> pack() const {
      Pack<T> pack;
      pack.bytes = bytes;
      return pack;
    }
  };

  // ORDER: [epoch] epoch: read before `step_counters`, which steps both for the next launch.
  MYELON_DEVICE SentinelMailbox(const Context& context, u32 world_size, u64)
      : context_(context),
        world_size_(world_size),
        buffer_(ld_relaxed_sys(&context.counters()->sentinel_buffer)),
        used_bytes_(ld_relaxed_sys(&context.counters()->sentinel_extent)) {}

  // The pack as `send` takes it and a peer gets it: without a sentinel.
  MYELON_DEVICE Pack<T> as_received(Pack<T> pack) const {
    pack.bytes = Bytes16{{Word::sanitize(pack.bytes.half[0]), Word::sanitize(pack.bytes.half[1])}};
    return pack;
  }

  MYELON_DEVICE void send(Route route, u64 index, Pack<T> pack) const {
    // ORDER: [sentinel] publish: each half is one 64-bit access and its own announcement.
    st_relaxed_sys_16(route.to + buffer_ + index * kPackBytes, pack.bytes);
  }

  // ORDER: [sentinel] consume: a word that is not the sentinel is data; nothing else is read behind it.
  MYELON_DEVICE Parcel poll(Route route, u64 index) const { return {ld_relaxed_sys_16(address(route, index))}; }

  // Where `poll` looks, for a wait that has gone cold.
  MYELON_DEVICE const u8* address(Route route, u64 index) const { return route.from + buffer_ + index * kPackBytes; }

  // Makes the buffer of the operation before ready for its next use. All CTAs share the work.
  MYELON_DEVICE void tidy() const {
    const u64 before = buffer_ == 0 ? last_buffer() : buffer_ - buffer_bytes();
    const Strided mine = grid_strided();
    MYELON_NO_UNROLL
    for (u64 at = mine.first * kPackBytes; at < used_bytes_; at += mine.step * kPackBytes) {
      for (u32 source = 0; source < world_size_; ++source) {
        if (source == context_.args.rank) continue;
        // ORDER: [sentinel] reuse: all was read by the launch before; the next writer is two operations away (above).
        st_relaxed_sys_16(Route(context_.args, source).from + before + at, Bytes16{{~0ull, ~0ull}});
      }
    }
  }

  MYELON_DEVICE MailboxUse use(u64 packs) const {
    return {true, false, buffer_ == last_buffer() ? 0 : buffer_ + buffer_bytes(), packs * kPackBytes};
  }

 private:
  MYELON_DEVICE u64 buffer_bytes() const { return (world_size_ - 1) * context_.args.layout.sentinel_bytes; }
  MYELON_DEVICE u64 last_buffer() const { return (kSentinelBuffers - 1) * buffer_bytes(); }

  const Context context_;
  const u32 world_size_;
  const u64 buffer_;  // of this operation: its offset from the first
  const u64 used_bytes_;
};

}  // namespace myelon
