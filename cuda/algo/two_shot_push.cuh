// two_shot_push: reduce-scatter, then all-gather, both by pushes into mailboxes.
//
// WHAT   The message is cut into n shards; everybody pushes shard r to rank r, which reduces it in rank order and pushes the
//        result to everybody.
//        in --store--> mailbox of the shard's rank --poll--> reduce --store--> mailbox of all ranks --poll--> out
// WHO    A thread owns the packs with its index in every shard: it sends pack i of each shard, reduces pack i of the own one,
//        and keeps pack i of each result. CTAs share nothing.
// ORDER  None but the mailbox's (proto/sentinel.cuh, proto/ll.cuh). A rank finishes only with packs that contain every
//        rank's input, directly or through the rank that reduced it, so the mailbox's argument holds here too.
// COST   A rank sends 2 (n - 1) / n x S bytes, twice that with LL; two hops.
#pragma once
#include "base/buckets.cuh"
#include "base/share.cuh"
#include "proto/mailbox.cuh"
#include "reduce/operator.cuh"
#include "sync/phase.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void two_shot_push(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  // Packs of a thread under way at once. With 256 threads, for small messages, code that is not unrolled is faster: 1 MiB took
  // 8.35 us against 9.00; with 512, for large ones, 16 MiB took 91.6 us against 89.4 (4x H200, 2026-11-21).
  constexpr u32 kUnroll = Config::kThreads > 256 ? 4 : 1;
  using Mailbox = typename MailboxFor<T, Config::kSentinel>::Type;
  using Route = typename Mailbox::Route;
  // What needs no memory comes before the launch's turn, while the launch before still runs.
  const u64 packs = pack_count<T>(args.count);
  const Share own = cut(0, packs, kWorldSize, args.rank);
  // A mailbox holds a peer's part of the own shard, then from `results` on the peer's reduced shard. Shard 0 is the longest.
  const u64 results = cut(0, packs, kWorldSize, 0).packs;
  const Strided mine = grid_strided();
  using Message = Operands<T, Config::kBuckets>;
  const typename Message::Input input(args);
  const typename Message::Output output(args);
  // Each rank starts with another peer and goes on by one, so that the traffic stays a permutation.
  auto peer_at = [&](u32 step) { return (args.rank + step) % kWorldSize; };
  auto shard_at = [&](u32 step) { return cut(0, packs, kWorldSize, peer_at(step)); };

  const Context context(args);
  const Mailbox mailbox(context, kWorldSize, results);
  // Pack `mine.first` of every shard, asked for together with the mailbox's counters; a thread of a small message has no others.
  Pack<T> first[kWorldSize];
  MYELON_UNROLL
  for (u32 step = 0; step < kWorldSize; ++step) {
    const Share shard = shard_at(step);
    if (mine.first < shard.packs) first[step] = input.load(static_cast<u32>(shard.first + mine.first));
  }
  MYELON_UNROLL
  for (u32 step = 1; step < kWorldSize; ++step) {
    if (mine.first < shard_at(step).packs) mailbox.send(Route(args, peer_at(step)), mine.first, mailbox.as_received(first[step]));
  }
  MYELON_NO_UNROLL
  for (u32 step = 1; step < kWorldSize; ++step) {
    const Route route(args, peer_at(step));
    const Share shard = shard_at(step);
    for_each_pack<kUnroll, T>(
        Strided{mine.first + mine.step, mine.step}, shard.packs,
        [&](u64 i) { return Message::load(args, shard.first + i); },
        [&](u64 i, Pack<T> pack) { mailbox.send(route, i, mailbox.as_received(pack)); });
  }
  end_phase();

  const Announcement announcement(context, kWorldSize);
  mailbox.tidy();
  advance_operation(context, mailbox.use(2 * results));

  bool arrived = true;
  MYELON_NO_UNROLL
  for (u64 i = mine.first; i < own.packs; i += mine.step) {
    const u32 index = static_cast<u32>(own.first + i);
    const Pack<T> ours = mailbox.as_received(i == mine.first ? first[0] : input.load(index));
    typename Mailbox::Parcel parts[kWorldSize];
    auto part = [&](u32 k) { return Cell<Mailbox>{k, Route(args, k), i, k != args.rank}; };
    arrived = receive(context, mailbox, part, parts);
    if (!arrived) break;
    auto part_of = [&](u32 rank) { return rank == args.rank ? ours : parts[rank].pack(); };
    PackReducer<T, Op> reducer(part_of(0));
    MYELON_UNROLL
    for (u32 rank = 1; rank < kWorldSize; ++rank) reducer.add(part_of(rank));
    const Pack<T> result = reducer.result(kWorldSize);
    MYELON_NO_UNROLL
    for (u32 step = 1; step < kWorldSize; ++step) mailbox.send(Route(args, peer_at(step)), results + i, result);
    // INVARIANT: a result is never the sentinel, so the peers get these bits: narrowing knows one NaN only, and wider ones come
    // from inputs that were sanitized.
    output.store(index, result);
  }
  if (!end_phase(arrived)) return;

  MYELON_NO_UNROLL
  for (u32 step = 1; step < kWorldSize; ++step) {
    const u32 peer = peer_at(kWorldSize - step);
    const Route route(args, peer);
    const Share shard = cut(0, packs, kWorldSize, peer);
    MYELON_NO_UNROLL
    for (u64 i = mine.first; i < shard.packs; i += kUnroll * mine.step) {
      typename Mailbox::Parcel reduced[kUnroll];
      auto cell = [&](u32 k) {
        const u64 index = i + k * mine.step;
        return Cell<Mailbox>{peer, route, results + index, index < shard.packs};
      };
      if (!receive(context, mailbox, cell, reduced)) return;
      MYELON_UNROLL
      for (u32 k = 0; k < kUnroll; ++k) {
        const u64 index = i + k * mine.step;
        if (index < shard.packs) Message::store(args, shard.first + index, reduced[k].pack());
      }
    }
  }
  announcement.check(context);
}

}  // namespace myelon
