//! What ranks tell each other, and the verdict that all draw from it alike: pure.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// Bytes that a rank gives to an exchange: the same in every version, so that versions can tell that they differ.
pub(super) const FRAME: usize = 2048;

/// First bytes of a frame.
const MAGIC: &[u8; 8] = b"MYNCCL01";

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    version: String,
    /// Why this rank cannot, if so.
    unable: Option<String>,
    host: String,
    /// The GPU.
    device: String,
    process: u32,
    thread: u64,
    /// Communicators that this thread makes in the same group.
    together: usize,
    /// What is equal on all ranks or not at all.
    settings: String,
    /// Where to meet; rank 0's.
    id: Option<String>,
}

impl Hello {
    pub(super) fn able(device: &str, settings: &Settings, id: Option<String>, together: usize, ranks: u32) -> Self {
        let mut kernels: Vec<_> = settings.prepare.iter().map(|(dtype, op)| format!("{dtype}:{op}")).collect();
        kernels.sort();
        let taken = settings.taken(ranks);
        // With the sizes: what is taken is chosen on each rank for itself.
        let mut collectives: Vec<_> =
            taken.iter().map(|taken| format!("{} to {}", taken.collective.name(), taken.most_bytes)).collect();
        collectives.sort_unstable();
        let settings = format!("{}; {}", collectives.join(","), kernels.join(","));
        Self { device: device.into(), settings, id, unable: None, ..Self::unable(String::new(), together) }
    }

    pub(super) fn unable(why: String, together: usize) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            unable: Some(cut(&why)),
            host: host(),
            device: String::new(),
            process: std::process::id(),
            thread: thread(),
            together,
            settings: String::new(),
            id: None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

/// Whether a rank's own part went well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply {
    failed: Option<String>,
}

impl Reply {
    pub(super) fn of(failed: Option<&String>) -> Self {
        Self { failed: failed.map(|why| cut(why)) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

/// Most characters of a reason: escaped they fit a frame beside the rest.
const MOST: usize = 200;

fn cut(why: &str) -> String {
    why.chars().take(MOST).collect()
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_vec(value).expect("plain data");
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend(MAGIC);
    // INVARIANT: what is too long is left out, and reads as a frame of another version: such a communicator is forwarded.
    if frame.len() + 4 + text.len() <= FRAME {
        frame.extend((text.len() as u32).to_le_bytes());
        frame.extend(text);
    }
    frame.resize(FRAME, 0);
    frame
}

fn decode<T: for<'a> Deserialize<'a>>(frame: &[u8]) -> Option<T> {
    let rest = frame.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    serde_json::from_slice(rest.get(..u32::from_le_bytes(*length) as usize)?).ok()
}

/// How ranks that can come together do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meeting {
    /// The place.
    pub(super) id: String,
    /// Whether each rank is a process of its own.
    pub(super) are_processes: bool,
}

/// How the ranks meet; or why they do not, the same on every rank.
pub(super) fn verdict(frames: &[Vec<u8>]) -> Result<Meeting, String> {
    let mut hellos: Vec<Hello> = Vec::with_capacity(frames.len());
    for (rank, frame) in frames.iter().enumerate() {
        hellos.push(decode(frame).ok_or_else(|| format!("rank {rank} speaks another version of this library"))?);
    }
    let first = hellos.first().ok_or("no rank answered")?;
    for (rank, hello) in hellos.iter().enumerate() {
        let differs = |what: &str, here: &str, there: &str| {
            Err(format!("{what} differ: '{here}' on rank 0, '{there}' on rank {rank}"))
        };
        if hello.version != first.version {
            return differs("versions of this library", &first.version, &hello.version);
        }
        if let Some(why) = &hello.unable {
            return Err(format!("rank {rank} cannot: {why}"));
        }
        if hello.host != first.host {
            return differs("hosts", &first.host, &hello.host);
        }
        if hello.settings != first.settings {
            return differs("MYELON_NCCL_COLLECTIVES or MYELON_NCCL_PREPARE", &first.settings, &hello.settings);
        }
        if hello.together > 1 {
            return Err(format!("rank {rank} made {} communicators in one group", hello.together));
        }
    }
    let mut threads = HashSet::new();
    if let Some(rank) = hellos.iter().position(|hello| !threads.insert((hello.process, hello.thread))) {
        return Err(format!("one thread drives rank {rank} and another"));
    }
    let mut devices = HashSet::new();
    if let Some(rank) = hellos.iter().position(|hello| !devices.insert(&hello.device)) {
        return Err(format!("rank {rank} shares its GPU with another ({})", hellos[rank].device));
    }
    let processes: HashSet<_> = hellos.iter().map(|hello| hello.process).collect();
    let id = first.id.clone().ok_or("rank 0 named no place to meet")?;
    Ok(Meeting { id, are_processes: processes.len() == hellos.len() })
}

/// Whether every rank's own part went well; or the first that did not, the same on every rank.
pub(super) fn all_well(frames: &[Vec<u8>]) -> Result<(), String> {
    for (rank, frame) in frames.iter().enumerate() {
        let reply: Reply = decode(frame).ok_or_else(|| format!("rank {rank} gave no answer that can be read"))?;
        if let Some(why) = reply.failed {
            return Err(format!("rank {rank} failed: {why}"));
        }
    }
    Ok(())
}

/// Host name, boot and network: the name alone may repeat over machines, the boot over containers, and containers that have both alike
/// may each have a loopback device of its own.
fn host() -> String {
    let read =
        |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().chars().take(64).collect::<String>();
    let network = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let (name, boot) = (read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/boot_id"));
    format!("{name} {boot} {}", network.display())
}

fn thread() -> u64 {
    // SAFETY: has no arguments and cannot fail.
    unsafe { libc::gettid() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Place;
    use myelon_ccl::{Collective, DType, ReduceOp};

    fn settings(prepare: Vec<(DType, ReduceOp)>) -> Settings {
        let collectives = Some(Collective::ALL.to_vec());
        Settings { disabled: false, log: false, collectives, prepare, place: Place::Gpu }
    }

    fn hellos(change: impl Fn(usize, &mut Hello)) -> Vec<Vec<u8>> {
        (0..4)
            .map(|rank| {
                let id = (rank == 0).then(|| "f".repeat(256));
                let mut hello =
                    Hello::able(&format!("GPU-{rank}"), &settings(vec![(DType::F32, ReduceOp::Sum)]), id, 1, 4);
                hello.process += rank as u32;
                change(rank, &mut hello);
                hello.encode()
            })
            .collect()
    }

    fn refusal(change: impl Fn(usize, &mut Hello)) -> String {
        verdict(&hellos(change)).unwrap_err()
    }

    #[test]
    fn ranks_that_are_alike_meet_at_the_place_of_the_first() {
        let id = "f".repeat(256);
        assert_eq!(verdict(&hellos(|_, _| ())).unwrap(), Meeting { id: id.clone(), are_processes: true });
        let threads = hellos(|rank, hello| (hello.process, hello.thread) = (7, rank as u64));
        assert_eq!(verdict(&threads).unwrap(), Meeting { id, are_processes: false });
    }

    #[test]
    fn every_difference_is_named_with_its_rank() {
        type Change = fn(usize, &mut Hello);
        let cases: [(Change, &str); 8] = [
            (|rank, hello| hello.version.push_str(["", "", "", "-next"][rank]), "versions of this library differ"),
            (|rank, hello| hello.unable = (rank == 2).then(|| "no NVRTC".into()), "rank 2 cannot: no NVRTC"),
            (|rank, hello| hello.host.push_str(["", "b", "", ""][rank]), "hosts differ"),
            (|rank, hello| hello.settings.push_str(["", "", "x", ""][rank]), "MYELON_NCCL_PREPARE"),
            (|rank, hello| hello.together += rank, "rank 1 made 2 communicators in one group"),
            (|_, hello| hello.process = 7, "one thread drives rank 1 and another"),
            (|rank, hello| hello.device = format!("GPU-{}", rank % 3), "rank 3 shares its GPU"),
            (|_, hello| hello.id = None, "no place to meet"),
        ];
        for (change, words) in cases {
            let why = refusal(change);
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn a_network_of_its_own_is_another_host() {
        assert!(host().contains(" net:["), "{}", host());
    }

    #[test]
    fn what_cannot_be_read_is_another_version() {
        let mut frames = hellos(|_, _| ());
        frames[3].fill(0xff);
        assert!(verdict(&frames).unwrap_err().contains("rank 3 speaks another version"));
        assert!(all_well(&frames).is_err());
        assert!(verdict(&[]).is_err());
    }

    #[test]
    fn frames_have_one_size_and_the_longest_words_fit() {
        let hello = Hello::unable("\u{1}".repeat(10_000), 1);
        assert_eq!(hello.encode().len(), FRAME);
        assert_eq!(decode::<Hello>(&hello.encode()), Some(hello));
        let reply = Reply::of(Some(&"\"".repeat(10_000)));
        assert_eq!(decode::<Reply>(&reply.encode()), Some(reply));
        let all: Vec<_> =
            DType::ALL.iter().flat_map(|&dtype| ReduceOp::ALL.iter().map(move |&op| (dtype, op))).collect();
        let hello = Hello::able(&"d".repeat(100), &settings(all), Some("f".repeat(256)), 1, 4);
        assert_eq!(decode::<Hello>(&hello.encode()), Some(hello));
    }

    #[test]
    fn one_failure_is_heard_by_all() {
        let well = Reply::of(None).encode();
        all_well(&[well.clone(), well.clone()]).unwrap();
        let ill = Reply::of(Some(&"no memory".to_owned())).encode();
        assert_eq!(all_well(&[well, ill]).unwrap_err(), "rank 1 failed: no memory");
    }
}
