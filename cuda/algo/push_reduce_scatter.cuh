// push_reduce_scatter: every rank pushes each peer its part of the input; every rank reduces its own.
//
// WHAT   out[r][i] = op over s of in[s][r][i], in rank order; in[s] is n parts, one a rank.
//        in[s][r] --store--> mailbox[s] of rank r --poll--> reduce, with the own part of the input --> out
// WHO    A team of threads owns packs (proto/push.cuh): each member sends a pack of another rank's part to it, and polls the pack
//        that this rank sends for the own part.
// ORDER  None but the mailbox's (proto/sentinel.cuh, proto/ll.cuh): a rank finishes only with packs of every rank, so the mailbox's
//        argument holds. In place the output is the own part: a pack of it is loaded by the team that stores it, before.
// COST   For a part of S bytes: a rank of n sends (n - 1) x S, twice that with LL; one hop.
#pragma once
#include "proto/push.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void push_reduce_scatter(const Args& args) {
  const Team<Config::kWorldSize> team;
  const SmallOperand<T> input(static_cast<const u8*>(args.input) + team.rank() * args.part_bytes, args.count);
  const SmallOperand<T> output(args.output, args.count);
  push_and_reduce<T, Op, Config>(args, team, input, output);
}

}  // namespace myelon
