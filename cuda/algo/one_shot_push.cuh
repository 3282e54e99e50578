// one_shot_push: every rank pushes its whole input to every rank; every rank reduces everything.
//
// WHAT   out[i] = op over r of in[r][i], in rank order.
//        in[r] --store--> mailbox[r] of all ranks --poll--> reduce --> out
// WHO    A team of threads owns packs (base/team.cuh): member m pushes pack i to rank m, then polls pack i of rank m; the packs
//        meet by shuffles and every member reduces them. CTAs share nothing.
// ORDER  None but the mailbox's (proto/sentinel.cuh, proto/ll.cuh): no barrier, no fence, no flag traffic.
// COST   A rank of n sends (n - 1) x S bytes, twice that with LL; one hop. For messages where latency is everything.
#pragma once
#include "base/team.cuh"
#include "proto/mailbox.cuh"
#include "reduce/operator.cuh"
#include "sync/phase.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void one_shot_push(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  const Team<kWorldSize> team;
  const u64 packs = pack_count<T>(args.count);
  using Mailbox = typename MailboxFor<T, Config::kSentinel>::Type;
  const Mailbox mailbox(context, kWorldSize, packs * team.kThreads);

  team.for_each_pack(packs, [&](u64 index) {
    if (team.has_rank && team.member != args.rank && index < packs) {
      mailbox.send(team.member, index, load_pack<T>(args.input, index, args.count));
    }
    return true;
  });
  end_phase();

  const Announcement announcement(context, kWorldSize);
  mailbox.tidy();
  advance_operation(context, mailbox.use(packs));

  team.for_each_pack(packs, [&](u64 index) {
    const bool due = team.has_rank && index < packs;
    auto cell = [&](u32, u32* source, u64* at) {
      *source = team.member;
      *at = index;
      return due && team.member != args.rank;
    };
    typename Mailbox::Parcel parcel[1];
    // ORDER: [team] load-sync: all threads of the warp go on to the shuffles, or none.
    if (!sync_warp_and(receive(context, mailbox, cell, parcel))) return false;
    const Pack<T> part = team.member == args.rank && due
                             ? mailbox.as_received(load_pack<T>(args.input, index, args.count))
                             : parcel[0].pack();
    PackReducer<T, Op> reducer(team.pack_of(0, part));
    MYELON_UNROLL
    for (u32 source = 1; source < kWorldSize; ++source) reducer.add(team.pack_of(source, part));
    if (team.member == 0 && index < packs) store_pack(args.output, index, args.count, reducer.result(kWorldSize));
    return true;
  });
  end_phase();
  announcement.check(context);
}

}  // namespace myelon
