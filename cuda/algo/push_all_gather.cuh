// push_all_gather: every rank pushes its input to every rank; every rank keeps everybody's.
//
// WHAT   out[r][i] = in[r][i] on every rank; out is n parts, one a rank. Bytes are moved: T is any type of the element's size.
//        in[r] --store--> mailbox[r] of all ranks --poll--> part r of out
// WHO    A team of threads owns packs (base/team.cuh): member m sends pack i to rank m, then polls pack i of rank m and stores it to
//        part m; the own rank's member stores the own pack. Threads share nothing.
// ORDER  None but the mailbox's (proto/ll.cuh): a rank finishes only with packs of every rank, so its argument holds. Never sentinels,
//        for every pattern of bits is data.
// COST   For a part of S bytes: a rank of n sends 2 (n - 1) x S; one hop.
#pragma once
#include "base/team.cuh"
#include "proto/mailbox.cuh"
#include "reduce/operator.cuh"
#include "sync/phase.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void push_all_gather(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  using Mailbox = LlMailbox<T>;
  // What needs no memory comes before the launch's turn, while the launch before still runs.
  const Team<kWorldSize> team;
  const u32 packs = static_cast<u32>(pack_count<T>(args.count));
  u8* part = static_cast<u8*>(args.output) + team.rank() * args.part_bytes;
  const SmallOperand<T> input(args.input, args.count);
  const SmallOperand<T> output(part, args.count);
  const typename Mailbox::Route route(args, team.rank());
  const bool is_own = team.member == args.rank;
  const bool is_peer = team.has_rank && !is_own;
  const bool is_kept = is_own && part != args.input;

  const Context context(args);
  const Mailbox mailbox(context, kWorldSize, static_cast<u64>(packs) * team.kThreads);
  auto load = [&](u32 index) { return input.load(index); };
  // Asked for together with the mailbox's counters; a thread of a small message has no other pack.
  Pack<T> first;
  if (team.first_pack() < packs) first = load(team.first_pack());

  team.for_each_pack(packs, first, load, [&](u32 index, Pack<T> pack) {
    if (index >= packs) return true;
    if (is_peer) mailbox.send(route, index, pack);
    if (is_kept) output.store(index, pack);
    return true;
  });
  end_phase();

  const Announcement announcement(context, kWorldSize);
  mailbox.tidy();
  advance_operation(context, mailbox.use(packs));

  MYELON_NO_UNROLL
  for (u32 index = team.first_pack(); is_peer && index < packs; index += team.of_grid()) {
    typename Mailbox::Parcel parcel[1];
    if (!receive_one(context, mailbox, Cell<Mailbox>{team.member, route, index, true}, parcel)) break;
    output.store(index, parcel[0].pack());
  }
  end_phase();
  announcement.check(context);
}

}  // namespace myelon
