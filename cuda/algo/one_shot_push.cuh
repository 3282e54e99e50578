// one_shot_push: every rank pushes its whole input to every rank; every rank reduces everything.
//
// WHAT   out[i] = op over r of in[r][i], in rank order.
//        in[r] --store--> mailbox[r] of all ranks --poll--> reduce --> out
// WHO    A team of threads owns packs (proto/push.cuh): each member sends a pack to another rank, and polls the same pack of it.
// ORDER  None but the mailbox's (proto/sentinel.cuh, proto/ll.cuh): no barrier, no fence, no flag traffic.
// COST   A rank of n sends (n - 1) x S bytes, twice that with LL; one hop. For messages where latency is everything.
#pragma once
#include "base/buckets.cuh"
#include "proto/push.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void one_shot_push(const Args& args) {
  using Message = Operands<T, Config::kBuckets>;
  const Team<Config::kWorldSize> team;
  const typename Message::Input input(args);
  const typename Message::Output output(args);
  push_and_reduce<T, Op, Config>(args, team, input, output);
}

}  // namespace myelon
