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

template <class T>
class SentinelMailbox {
 public:
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
        epoch_(ld_relaxed_sys(&context.counters()->sentinel_epoch)),
        used_packs_(ld_relaxed_sys(&context.counters()->sentinel_extent) / kPackBytes) {}

  // The pack as a peer gets it.
  MYELON_DEVICE Pack<T> as_received(Pack<T> pack) const {
    pack.bytes = Bytes16{{Word::sanitize(pack.bytes.half[0]), Word::sanitize(pack.bytes.half[1])}};
    return pack;
  }

  MYELON_DEVICE void send(u32 peer, u64 index, Pack<T> pack) const {
    // ORDER: [sentinel] publish: each half is one 64-bit access and its own announcement.
    st_relaxed_sys_16(cell(peer, epoch_, context_.args.rank, index), as_received(pack).bytes);
  }

  // ORDER: [sentinel] consume: a word that is not the sentinel is data; nothing else is read behind it.
  MYELON_DEVICE Parcel poll(u32 source, u64 index) const { return {ld_relaxed_sys_16(address(source, index))}; }

  // Where `poll` looks, for a wait that has gone cold.
  MYELON_DEVICE const u8* address(u32 source, u64 index) const {
    return cell(context_.args.rank, epoch_, source, index);
  }

  // Makes the buffer of the operation before ready for its next use. All CTAs share the work.
  MYELON_DEVICE void tidy() const {
    const u64 before = epoch_ + kSentinelBuffers - 1;
    const Strided mine = grid_strided();
    MYELON_NO_UNROLL
    for (u64 index = mine.first; index < used_packs_; index += mine.step) {
      for (u32 source = 0; source < world_size_; ++source) {
        if (source == context_.args.rank) continue;
        // ORDER: [sentinel] reuse: all was read by the launch before; the next writer is two operations away (above).
        st_relaxed_sys_16(cell(context_.args.rank, before, source, index), Bytes16{{~0ull, ~0ull}});
      }
    }
  }

  MYELON_DEVICE MailboxUse use(u64 packs) const { return {true, false, epoch_, packs * kPackBytes}; }

 private:
  MYELON_DEVICE u8* cell(u32 owner, u64 epoch, u32 source, u64 index) const {
    const HeapLayout& layout = context_.args.layout;
    const u64 box = (epoch % kSentinelBuffers) * world_size_ + source;
    return context_.in_heap<u8>(owner, layout.sentinel + box * layout.sentinel_bytes + index * kPackBytes);
  }

  const Context context_;
  const u32 world_size_;
  const u64 epoch_;
  const u64 used_packs_;
};

}  // namespace myelon
