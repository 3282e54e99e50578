//! `libmyelon_nccl.so` before a pretended NCCL, ranks on the CPU device: what is taken, what is forwarded and how, and how it ends.
//!
//! Every scenario of `tests/fake/ranks.cc` checks its results itself.

mod attaching;
mod finding;
mod rig;
mod surface;

use rig::{Run, stand_in};

/// The exchanges of ranks that agree: two gathers of a frame each.
const EXCHANGED: usize = 2;

#[test]
fn all_reduces_are_taken_and_the_rest_is_forwarded_untouched() {
    let ran = Run::preloaded(&["values"]).run().well();
    // Six of three sizes, in place and not, one of nothing and one that is refused, on two ranks.
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 16, "{}", ran.output);
    let theirs = ran.calls("AllReduce");
    assert_eq!(theirs.len(), 6, "{theirs:#?}");
    assert_eq!(theirs.iter().filter(|line| line.contains("count=100 type=8 op=0")).count(), 2);
    assert_eq!(theirs.iter().filter(|line| line.contains("count=100 type=7 op=2")).count(), 2);
    assert_eq!(theirs.iter().filter(|line| line.contains("count=1 type=77 op=0")).count(), 2);
    assert_eq!(ran.counted("ncclAllReduce", "NCCL: a data type that Myelon lacks"), 2);
    assert_eq!(ran.counted("ncclAllReduce", "NCCL: type and operator not in MYELON_NCCL_PREPARE"), 4);
    // The id came whole, by value.
    assert!(ran.calls("InitRank").iter().all(|line| line.ends_with("last=90")), "{:?}", ran.calls("InitRank"));
}

#[test]
fn four_ranks_agree_too() {
    let ran = Run::preloaded(&["values", "4"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 32, "{}", ran.output);
}

#[test]
fn opened_by_path_it_is_the_same() {
    let fake = rig::Built::get().fake();
    let ran = Run::opening(&stand_in(), &["values"]).with("MYELON_NCCL_LIB", fake).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 16, "{}", ran.output);
}

#[test]
fn a_tool_that_wraps_nccl_stands_before_it() {
    let (wrapper, stand_in) = (rig::Built::get().wrapper(), stand_in());
    let preloaded = format!("{}:{}", wrapper.display(), stand_in.display());
    let ran = Run::preloaded(&["values"]).with("LD_PRELOAD", preloaded).run().well();
    assert!(ran.output.contains("the tool saw 22 all-reduces"), "{}", ran.output);
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 16, "{}", ran.output);
    assert_eq!(ran.calls("AllReduce").len(), 6, "{:#?}", ran.calls);
}

#[test]
fn who_a_rank_is_only_nccl_says() {
    let ran = Run::preloaded(&["identity"]).run().well();
    assert!(ran.output.contains("the NCCL in use has no ncclCommGrow"), "{}", ran.output);
}

#[test]
fn groups_nest_and_hold_both_engines_calls_of_several_communicators() {
    let ran = Run::preloaded(&["groups", "4"]).with("MYELON_NCCL_COLLECTIVES", "all_reduce").run().well();
    // Three rounds of three all-reduces on four ranks; halves of two ranks are attached as well.
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 36, "{}", ran.output);
    assert_eq!(ran.counted("ncclAllGather", "NCCL"), 12);
    assert_eq!(ran.calls("Send").len(), 3);
    // Every group of the program's is the pretended library's as well, beside those of the exchanges.
    let exchanges = 4 * EXCHANGED * 2;
    assert_eq!(ran.calls("GroupStart").len(), 4 * 3 * 2 + exchanges);
    assert_eq!(ran.calls("GroupEnd").len(), 4 * 3 * 2 + exchanges);
}

/// Twelve calls and two in place, two all-reduces, and two large broadcasts, on every rank.
#[test]
fn other_collectives_are_taken_where_they_are_faster_or_asked_for() {
    let names = [("ncclAllGather", 6), ("ncclBcast", 2), ("ncclBroadcast", 4), ("ncclReduceScatter", 4)];
    let two = Run::preloaded(&["others", "2"]).run().well();
    for (name, calls) in names {
        assert_eq!(two.counted(name, "Myelon"), 2 * calls, "{}", two.output);
    }
    let counted = |ran: &rig::Ran, by: &str| names.map(|(name, _)| ran.counted(name, by));
    let all = names.map(|(_, calls)| 5 * calls);
    let forwarded = Run::preloaded(&["others", "5"]).run().well();
    assert_eq!(counted(&forwarded, "NCCL: not a function that Myelon takes"), all, "{}", forwarded.output);
    let taken = Run::preloaded(&["others", "5"]).with("MYELON_NCCL_COLLECTIVES", "all").run().well();
    assert_eq!(counted(&taken, "Myelon"), all, "{}", taken.output);
    assert_eq!(taken.calls("ReduceScatter").len(), 0);
    for ran in [forwarded, taken] {
        assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 10, "{}", ran.output);
    }
    for ranks in [3, 4] {
        let ran = Run::preloaded(&["others", &ranks.to_string()]).run().well();
        let small = names.map(|(name, calls)| ranks * if name == "ncclBroadcast" { calls - 2 } else { calls });
        assert_eq!(counted(&ran, "Myelon"), small, "{}", ran.output);
        let large = ran.counted("ncclBroadcast", "NCCL: NCCL is as fast at this size");
        assert_eq!(large, 2 * ranks, "{}", ran.output);
    }
}

#[test]
fn a_communicator_of_one_rank_is_left_alone() {
    let ran = Run::preloaded(&["groups", "2"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 12, "{}", ran.output);
    assert_eq!(ran.counted("ncclAllReduce", "NCCL: the communicator is not attached"), 6);
    assert!(ran.output.contains("of 1 ranks: forwarded: Myelon is for 2 to 8"), "{}", ran.output);
}

#[test]
fn the_librarys_calls_of_its_own_functions_are_not_taken() {
    let ran = Run::preloaded(&["itself"]).with("MYELON_NCCL_COLLECTIVES", "all_reduce").run().well();
    assert_eq!(ran.calls("Broadcast").len(), 2, "through the loader, and so through the stand-in");
    assert_eq!((ran.counted("ncclBcast", "NCCL"), ran.counted("ncclBroadcast", "NCCL")), (2, 0), "{}", ran.output);
    // Finalized by the program: destroying it does so no second time.
    assert_eq!(ran.calls("Finalize").len(), 2);
    assert!(ran.calls("Destroy").iter().all(|line| line.ends_with("finalized=1")));
}

#[test]
fn an_abort_ends_a_wait() {
    let ran = Run::preloaded(&["abort"]).run().well();
    assert_eq!(ran.calls("Abort").len(), 2);
}

#[test]
fn shrinking_by_force_ends_a_wait_and_what_comes_after_is_an_error() {
    let ran = Run::preloaded(&["shrink"]).run().well();
    assert_eq!((ran.calls("Shrink").len(), ran.calls("AllReduce").len()), (1, 0), "{}", ran.output);
}

#[test]
fn what_nccl_cannot_revoke_goes_on() {
    let ran = Run::preloaded(&["not_revoked", "3"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 3, "{}", ran.output);
}

#[test]
fn a_group_that_is_only_estimated_runs_nothing_and_ends() {
    let ran = Run::preloaded(&["simulated"]).with("MYELON_NCCL_COLLECTIVES", "all_reduce").run().well();
    assert_eq!(ran.calls("GroupSimulateEnd").len(), 2);
}

#[test]
fn of_a_group_in_which_a_call_failed_nothing_runs() {
    let ran = Run::preloaded(&["failed_group"]).with("MYELON_NCCL_COLLECTIVES", "all_reduce").run().well();
    assert_eq!(ran.calls("AllReduce").len(), 0, "{}", ran.output);
}

#[test]
fn what_goes_wrong_in_a_group_is_told_though_it_made_a_communicator() {
    let ran = Run::preloaded(&["mixed"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 4, "{}", ran.output);
}

#[test]
fn one_thread_can_destroy_the_ranks_of_several() {
    let ran = Run::preloaded(&["in_turn", "3"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 3, "{}", ran.output);
}

#[test]
fn a_static_object_can_end_communicators_in_groups() {
    Run::preloaded(&["at_exit"]).run().well();
}

#[test]
fn a_killed_rank_is_an_error_on_the_others() {
    let ran = Run::preloaded(&["killed", "3"]).run().well();
    assert!(ran.output.contains("by Myelon"), "{}", ran.output);
}

#[test]
fn turned_off_it_only_forwards() {
    let ran = Run::preloaded(&["groups", "4"]).with("MYELON_NCCL_DISABLE", "1").run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 0, "{}", ran.output);
    assert_eq!(ran.calls("AllReduce").len(), 36);
    assert_eq!(ran.calls("AllGather").len(), 12, "the program's, and no exchange");
}
