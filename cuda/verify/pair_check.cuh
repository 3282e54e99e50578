// pair_check: one rank's half of trying every ordered pair: store to all, then check what came and what can be loaded back.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

// What `source` stores for `reader`: both halves of pack `index`.
MYELON_DEVICE Bytes16 pair_data(const PairArgs& args, u32 source, u32 reader, u64 index) {
  u64 z = args.seed + (static_cast<u64>(source) * kMaxWorld + reader + 1) * 0x9e3779b97f4a7c15ull + index * 0xd1b54a32d192ed03ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return Bytes16{{z, ~z ^ (z >> 31)}};
}

MYELON_DEVICE u8* pair_cell(const PairArgs& args, u32 owner, u32 source, u64 index) {
  return args.heap[owner] + args.scratch + source * args.bytes + index * kPackBytes;
}

// Even packs by the store of the mailboxes, odd ones by the store of slots and staging.
MYELON_DEVICE void pair_store(const PairArgs& args) {
  for (u64 index = thread_index(); index < args.bytes / kPackBytes; index += thread_count()) {
    for (u32 reader = 0; reader < args.world_size; ++reader) {
      u8* cell = pair_cell(args, reader, args.rank, index);
      const Bytes16 data = pair_data(args, args.rank, reader, index);
      if (index % 2 == 0) {
        // ORDER: [pair-check] publish: by the end of the kernel, after which the hosts meet.
        st_relaxed_sys_16(cell, data);
      } else {
        st_weak_16(cell, data);
      }
    }
  }
}

MYELON_DEVICE bool pair_differs(Bytes16 a, Bytes16 b) { return a.half[0] != b.half[0] || a.half[1] != b.half[1]; }

// Runs when every rank's stores have completed: the hosts met in between. Thread `peer` counts for that peer.
MYELON_DEVICE void pair_load(const PairArgs& args) {
  const u32 peer = thread_index();
  if (peer >= args.world_size) return;
  u64 came = 0, loaded = 0;
  for (u64 index = 0; index < args.bytes / kPackBytes; ++index) {
    // ORDER: [pair-check] consume: the hosts have met since the stores.
    const Bytes16 here = ld_relaxed_sys_16(pair_cell(args, args.rank, peer, index));
    const Bytes16 there = ld_weak_16(pair_cell(args, peer, args.rank, index));
    came += pair_differs(here, pair_data(args, peer, args.rank, index));
    loaded += pair_differs(there, pair_data(args, args.rank, peer, index));
  }
  args.wrong[peer] = came;
  args.wrong[kMaxWorld + peer] = loaded;
}

}  // namespace myelon
