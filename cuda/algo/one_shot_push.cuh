// one_shot_push: every rank pushes its whole input to every rank; every rank reduces everything.
//
// WHAT   out[i] = op over r of in[r][i], in rank order.
//        in[r] --store--> mailbox[r] of all ranks --poll--> reduce --> out
// WHO    A thread owns packs: it pushes pack i to every rank, then polls pack i of every rank. CTAs share nothing.
// ORDER  None but the mailbox's (proto/sentinel.cuh, proto/ll.cuh): no barrier, no fence, no flag traffic.
// COST   A rank of n sends (n - 1) x S bytes, twice that with LL; one hop. For messages where latency is everything.
#pragma once
#include "proto/mailbox.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void one_shot_push(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  const u64 packs = pack_count<T>(args.count);
  const typename MailboxFor<T, Config::kSentinel>::Type mailbox(context, kWorldSize, packs);
  const u64 first = static_cast<u64>(context.lane) * thread_count() + thread_index();
  const u64 threads = static_cast<u64>(cta_count()) * thread_count();

  for (u64 index = first; index < packs; index += threads) {
    const Pack<T> pack = load_pack<T>(args.input, index, args.count);
    // Each rank starts with another peer, so that no mailbox is hit by all at once. The own one is sent to as well:
    // it keeps the input for the second loop when the output replaces it.
    MYELON_UNROLL
    for (u32 step = 0; step < kWorldSize; ++step) mailbox.send((args.rank + step) % kWorldSize, index, pack);
  }

  announce_operation(context, kWorldSize);
  mailbox.tidy();
  advance_operation(context, mailbox.use(packs));

  for (u64 index = first; index < packs; index += threads) {
    Pack<T> received[kWorldSize];
    if (!receive_all<kWorldSize>(context, mailbox, index, received)) return;
    PackReducer<T, Op> reducer(received[0]);
    MYELON_UNROLL
    for (u32 source = 1; source < kWorldSize; ++source) reducer.add(received[source]);
    store_pack(args.output, index, args.count, reducer.result(kWorldSize));
  }
}

}  // namespace myelon
