//! Which communicators are attached: what keeps Myelon out, and what happens where a rank fails or is lost meanwhile.

use super::rig::Run;

#[test]
fn ranks_of_one_thread_are_left_alone() {
    let ran = Run::preloaded(&["one_thread", "3"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 0, "{}", ran.output);
    assert_eq!(ran.counted("ncclAllReduce", "NCCL: the communicator is not attached"), 6);
    assert!(ran.output.contains("rank 0 made 3 communicators in one group"), "{}", ran.output);
}

#[test]
fn a_communicator_made_in_a_group_of_its_own_is_attached() {
    let ran = Run::preloaded(&["grouped_init"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 2, "{}", ran.output);
}

#[test]
fn a_configuration_goes_through_as_it_is() {
    let ran = Run::preloaded(&["blocking"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 2, "{}", ran.output);
    let configured = ran.calls("InitRankConfig");
    assert_eq!(configured.len(), 2);
    for (rank, share) in [(0, 41), (1, 42)] {
        let expected = format!("rank={rank} of=2 ");
        let line = configured.iter().find(|line| line.contains(&expected)).unwrap();
        assert!(line.ends_with(&format!("size=48 version=22809 blocking=1 share={share}")), "{line}");
    }
}

#[test]
fn a_communicator_that_does_not_block_is_left_alone() {
    let ran = Run::preloaded(&["non_blocking"]).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "NCCL: the communicator is not attached"), 2, "{}", ran.output);
    assert_eq!(ran.calls("AllGather").len(), 0, "nobody waits for an exchange");
    assert!(ran.output.contains("communicator that does not block"), "{}", ran.output);
    let ran = Run::preloaded(&["grouped_init"]).with("NCCL_COMM_BLOCKING", "0").run().well();
    assert_eq!(ran.calls("AllGather").len(), 0, "the environment says so for all");
}

/// Also on ranks that never called NCCL before: its first call is the one that makes the communicator.
#[test]
fn what_nccls_files_say_counts() {
    for (blocking, gathers) in [("0", 0), ("1", 4)] {
        let ran = Run::preloaded(&["alike", "2"]).with("FAKE_NCCL_FILE_BLOCKING", blocking).run().well();
        assert_eq!(ran.calls("AllGather").len(), gathers, "{}", ran.output);
    }
}

/// Killed when it comes to say how it went; the others wait there through NCCL, which does not end that.
#[test]
fn a_rank_that_is_killed_while_it_attaches_holds_nobody_up() {
    for killed in ["0", "2"] {
        let ran = Run::preloaded(&["killed_early", "3"]).with("FAKE_NCCL_KILLED", killed).run().well();
        assert_eq!(ran.calls("Abort").len(), 2, "once on each of the others: {:#?}", ran.calls);
    }
}

/// The first of those that are left hears of it before it has joined, the second when it comes there, late.
#[test]
fn a_rank_that_is_killed_while_the_others_join_holds_nobody_up() {
    let run = Run::preloaded(&["killed_early", "3"]).with("FAKE_NCCL_KILLED", "2").with("FAKE_NCCL_LATE", "0");
    let ran = run.run().well();
    assert_eq!(ran.calls("Abort").len(), 2, "{:#?}", ran.calls);
}

#[test]
fn a_rank_that_fails_is_no_lost_one() {
    let ran = Run::preloaded(&["wrong_on_one", "3"]).run().well();
    assert_eq!((ran.calls("Abort").len(), ran.calls("AllReduce").len()), (0, 3), "{:#?}", ran.calls);
    assert!(ran.output.contains("MYELON_TIMEOUT"), "{}", ran.output);
}

#[test]
fn a_wrong_setting_is_told_and_everything_forwarded() {
    for (variable, value, words) in
        [("MYELON_VARIANT", "warp_drive", "warp_drive"), ("MYELON_TIMEOUT", "soon", "MYELON_TIMEOUT")]
    {
        let ran = Run::preloaded(&["grouped_init"]).with(variable, value).run().well();
        assert_eq!(ran.counted("ncclAllReduce", "NCCL: the communicator is not attached"), 2, "{}", ran.output);
        let told: Vec<_> = ran.output.lines().filter(|line| line.contains("NCCL runs everything")).collect();
        assert!(told.len() == 1 && told[0].contains(words), "{}", ran.output);
    }
}
