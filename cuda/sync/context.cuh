// context: what every step of a running launch needs to know, and where things lie in the heaps.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

// Kernel code from this floor up takes a `Context&`; one lives in each thread's registers.
struct Context {
  const Args& args;
  u64 operation;  // number of this operation, from 1; equal on all ranks
  u32 lane;       // this CTA

  MYELON_DEVICE explicit Context(const Args& launch_args) : args(launch_args), lane(cta_index()) {
    // INVARIANT: nothing of a launch touches global memory before the wait, so grids that are up early touch nothing. The next one is
    // let up behind the wait, so that two are up at most (the host's `Loaded::fits_twice`); before it where the host says so, of
    // small grids and never of three in a row (`KernelEngine::lets_up_early`), so that four are.
    // ORDER: [epoch] epoch: a grid that is up reads nothing before its own wait, behind which all launches before it have ended.
    if (args.early != 0) allow_next_launch();
    // ORDER: [epoch] [lane-epoch] epoch: what the launch before this one on the stream wrote is visible behind this wait, as it
    // is behind the kernel boundary of a launch that is not dependent; that one has waited for the one before it.
    wait_for_previous_launch();
    // ORDER: [epoch] epoch: as above, and no grid comes up behind one that waits.
    if (args.early == 0) allow_next_launch();
    // ORDER: [epoch] epoch: a CTA of the launch before wrote it; this lane's CTA writes it after all its threads' reads.
    operation = ld_relaxed_sys(&counters()->operation) + 1;
  }

  template <class T>
  MYELON_DEVICE T* in_heap(u32 rank, u64 offset) const {
    return reinterpret_cast<T*>(args.heap[rank] + offset);
  }

  // What this rank's CTAs share.
  MYELON_DEVICE HeapState* state() const { return in_heap<HeapState>(args.rank, args.layout.state); }

  // This lane's copy of the rank's counters.
  MYELON_DEVICE const LaneState* counters() const {
    return reinterpret_cast<const LaneState*>(args.own_heap + args.layout.lanes) + lane;
  }

  // The flags of this lane in the heap of `rank`.
  MYELON_DEVICE LaneState* lane_state(u32 rank) const { return in_heap<LaneState>(rank, args.layout.lanes) + lane; }

  // Where `source` announces operation `number` to `reader`.
  MYELON_DEVICE u64* signature(u32 reader, u32 source, u64 number) const {
    return in_heap<u64>(reader, args.layout.signatures) + source * 2 + (number & 1);
  }
};

}  // namespace myelon
