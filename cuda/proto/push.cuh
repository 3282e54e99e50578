// push: every rank stores packs into every rank's mailbox, and reduces what it got: one hop.
#pragma once
#include "base/team.cuh"
#include "proto/mailbox.cuh"
#include "reduce/operator.cuh"
#include "sync/phase.cuh"

namespace myelon {

// Each pack of `output` is reduced, in rank order, from that pack of every rank's `input`. A team owns a pack (base/team.cuh):
// member m sends pack i of its `input` to rank m, then polls pack i of rank m; the own rank's member has kept its own. The packs
// meet by shuffles, and every member reduces them. So an `input` can differ from member to member, while CTAs share nothing.
// What needs no memory comes before the launch's turn, while the launch before still runs: the caller makes operands there too.
template <class T, class Op, class Config, class Input, class Output>
MYELON_DEVICE void push_and_reduce(const Args& args, const Team<Config::kWorldSize>& team, const Input& input,
                                   const Output& output) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  using Mailbox = typename MailboxFor<T, Config::kSentinel>::Type;
  const u32 packs = static_cast<u32>(pack_count<T>(args.count));
  const typename Mailbox::Route route(args, team.rank());
  const bool is_peer = team.has_rank && team.member != args.rank;

  const Context context(args);
  const Mailbox mailbox(context, kWorldSize, static_cast<u64>(packs) * team.kThreads);
  auto load = [&](u32 index) { return mailbox.as_received(input.load(index)); };
  // Asked for together with the mailbox's counters; a thread of a small message has no other pack.
  Pack<T> first;
  if (team.first_pack() < packs) first = load(team.first_pack());

  team.for_each_pack(packs, first, load, [&](u32 index, Pack<T> pack) {
    if (is_peer && index < packs) mailbox.send(route, index, pack);
    return true;
  });
  end_phase();

  const Announcement announcement(context, kWorldSize);
  mailbox.tidy();
  advance_operation(context, mailbox.use(packs));

  team.for_each_pack(packs, first, load, [&](u32 index, Pack<T> own) {
    const Cell<Mailbox> cell{team.member, route, index, is_peer && index < packs};
    typename Mailbox::Parcel parcel[1];
    // ORDER: [team] load-sync: all threads of the warp go on to the shuffles, or none.
    if (!sync_warp_and(receive_one(context, mailbox, cell, parcel))) return false;
    const Pack<T> part = is_peer ? parcel[0].pack() : own;
    PackReducer<T, Op> reducer(team.pack_of(0, part));
    MYELON_UNROLL
    for (u32 source = 1; source < kWorldSize; ++source) reducer.add(team.pack_of(source, part));
    if (team.member == 0 && index < packs) output.store(index, reducer.result(kWorldSize));
    return true;
  });
  end_phase();
  announcement.check(context);
}

}  // namespace myelon
