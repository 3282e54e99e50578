// buckets: a list of the user's buffers as one message. Each begins with a pack of its own, so a pack lies in one buffer.
//
// The list is part of the launch's arguments, so a lookup reads constant memory, and the threads of a warp mostly the same words.
#pragma once
#include "base/pack.cuh"

namespace myelon {

// Where the packs of a launch's message lie: in one buffer.
template <class T, bool kBuckets>
struct Operands {
  // For a thread that moves few packs of it, and for one that moves many.
  struct Input : SmallOperand<T> {
    MYELON_DEVICE explicit Input(const Args& args) : SmallOperand<T>(args.input, args.count) {}
  };
  struct Output : SmallOperand<T> {
    MYELON_DEVICE explicit Output(const Args& args) : SmallOperand<T>(args.output, args.count) {}
  };
  static MYELON_DEVICE Pack<T> load(const Args& args, u64 index) { return load_pack<T>(args.input, index, args.count); }
  static MYELON_DEVICE void store(const Args& args, u64 index, Pack<T> pack) {
    store_pack(args.output, index, args.count, pack);
  }
};

// In the buckets of the list.
template <class T>
struct Operands<T, true> {
  // The last bucket that begins at a pack or before: as many looks as the number of buckets has bits.
  // INVARIANT: `first_pack` grows, and is beyond every pack behind the last bucket.
  static MYELON_DEVICE u32 bucket_of(const BucketArgs& args, u32 index) {
    u32 bucket = 0;
    MYELON_NO_UNROLL
    for (u32 step = args.search_step; step != 0; step /= 2) {
      if (args.first_pack[bucket + step] <= index) bucket += step;
    }
    return bucket;
  }
  static MYELON_DEVICE Pack<T> load(const Args& launch_args, u64 index) {
    const BucketArgs& args = static_cast<const BucketArgs&>(launch_args);
    const u32 bucket = bucket_of(args, static_cast<u32>(index));
    return load_pack<T>(args.place[bucket].input, index - args.first_pack[bucket], args.elements[bucket]);
  }
  static MYELON_DEVICE void store(const Args& launch_args, u64 index, Pack<T> pack) {
    const BucketArgs& args = static_cast<const BucketArgs&>(launch_args);
    const u32 bucket = bucket_of(args, static_cast<u32>(index));
    store_pack(args.place[bucket].output, index - args.first_pack[bucket], args.elements[bucket], pack);
  }
  struct Input {
    const Args& args;
    MYELON_DEVICE explicit Input(const Args& launch_args) : args(launch_args) {}
    MYELON_DEVICE Pack<T> load(u32 index) const { return Operands::load(args, index); }
  };
  struct Output {
    const Args& args;
    MYELON_DEVICE explicit Output(const Args& launch_args) : args(launch_args) {}
    MYELON_DEVICE void store(u32 index, Pack<T> pack) const { Operands::store(args, index, pack); }
  };
};

}  // namespace myelon
