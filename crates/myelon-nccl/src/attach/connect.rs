//! What a rank brings to the agreement, and how Myelon comes up where the ranks have agreed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::{Bootstrap, RendezvousServer, TcpBootstrap, TcpOptions, UniqueId};
use myelon_ccl::device::Device;
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::CudaDevice;
use myelon_ccl::{Communicator, Error, Options, Rank, WorldSize};

use super::control::Control;
use super::exchange::Member;
use super::hello::{Hello, Meeting};
use crate::communicators::Attached;
use crate::route::{self, Prepared};
use crate::sequence::Sequence;
use crate::settings::{Place, Settings};

/// Longest wait for the other ranks while Myelon comes up, compiling included.
const PATIENCE: Duration = Duration::from_secs(180);
/// Silence after which a rank counts as lost. A process that ends is noticed at once; this is for one that is stopped, or that left its
/// connection to a child.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a rank without a control plane waits for the others, from when all began to connect: they look for it so long, and then come.
const PATIENCE_ALONE: Duration = PATIENCE.saturating_add(Duration::from_secs(30));
/// Longest wait for the peers' goodbyes.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// What this rank brings to the agreement on one communicator.
pub(super) struct Offer {
    pub(super) hello: Hello,
    able: Option<(Arc<dyn Device>, &'static Settings)>,
    server: Option<RendezvousServer>,
}

impl Offer {
    pub(super) fn of(member: &Member, settings: Result<&'static Settings, &str>, together: usize) -> Self {
        let made = settings.map_err(str::to_owned).and_then(|settings| {
            let device: Arc<dyn Device> = match settings.place {
                Place::Gpu => CudaDevice::new(member.ordinal).map_err(in_words)?,
                Place::Cpu => CpuDevice::new(member.rank).map_err(in_words)?,
            };
            let server = (member.rank == 0).then(|| RendezvousServer::start(&tcp())).transpose();
            Ok((settings, device, server.map_err(in_words)?))
        });
        match made {
            Err(why) => Self { hello: Hello::unable(why, together), able: None, server: None },
            Ok((settings, device, server)) => {
                let id = server.as_ref().map(|server| server.id().to_text());
                let hello = Hello::able(&device.properties().identity, settings, id, together, member.world);
                Self { hello, able: Some((device, settings)), server }
            }
        }
    }
}

fn tcp() -> TcpOptions {
    TcpOptions { deadline: PATIENCE, silence: SILENCE, ..TcpOptions::default() }
}

fn in_words(error: Error) -> String {
    error.to_string()
}

/// A rank between the verdict and what all say of how it went.
///
/// INVARIANT: what it has of the control plane is kept until then, however it went here: its end would be a loss for the peers, though
/// this rank comes to the exchange.
pub(super) struct Joining {
    communicator: Option<Communicator>,
    control: Option<Arc<Control>>,
    /// The rank without which this one could not join.
    lost: Option<String>,
    began: Instant,
    are_processes: bool,
    _server: Option<RendezvousServer>,
}

/// What an attached communicator has beside Myelon's.
pub(super) type Parts = (Prepared, Sequence);

impl Joining {
    /// Brings Myelon up on this rank; beside it, what came of that.
    pub(super) fn begin(member: &Member, offer: Offer, meeting: &Meeting) -> (Self, Result<Parts, String>) {
        let (began, are_processes) = (Instant::now(), meeting.are_processes);
        let mut joining =
            Self { communicator: None, control: None, lost: None, began, are_processes, _server: offer.server };
        // WHY: a rank that panicked would leave the others in the exchange.
        let connected = catch_unwind(AssertUnwindSafe(|| joining.connect(member, offer.able, meeting)));
        let connected = connected.unwrap_or_else(|_| Err("a bug in Myelon, told above".into()));
        if let Some(control) = &joining.control {
            control.listen_alone();
            if let Err(why) = &connected {
                control.announce_abort(why);
            }
        }
        (joining, connected)
    }

    fn connect(
        &mut self,
        member: &Member,
        able: Option<(Arc<dyn Device>, &'static Settings)>,
        meeting: &Meeting,
    ) -> Result<Parts, String> {
        let (device, settings) = able.ok_or("this rank said that it cannot")?;
        let id: UniqueId = meeting.id.parse().map_err(in_words)?;
        let world = WorldSize::new(member.world).map_err(in_words)?;
        let plane = TcpBootstrap::connect(&id, Rank(member.rank), world, &tcp()).map_err(|error| {
            self.lost = matches!(error, Error::PeerLost { .. }).then(|| error.to_string());
            in_words(error)
        })?;
        let control = Arc::clone(self.control.insert(Arc::new(Control::new(plane))));
        let mut options = Options::from_env().map_err(in_words)?;
        if std::env::var_os("MYELON_TIMEOUT").is_none() {
            // WHY: NCCL waits for as long as it takes: a rank may be writing a checkpoint.
            options.timeout = Duration::ZERO;
        }
        if options.max_lanes.is_none() {
            options.large_lanes.get_or_insert(Options::LARGE_LANES_OF_TRAINING);
        }
        options.transient_streams = true;
        options.prepare.clear();
        let communicator = Communicator::connect(Arc::clone(&device), control, options).map_err(in_words)?;
        let communicator = self.communicator.insert(communicator);
        let taken = settings.taken(member.world);
        for taken in &taken {
            let kernels = route::kernels(taken.collective, &settings.prepare);
            communicator.prepare_collective(taken.collective, &kernels).map_err(in_words)?;
        }
        let sequence = Sequence::new(&device).map_err(in_words)?;
        Ok((Prepared::of(&taken, &settings.prepare), sequence))
    }

    /// What says why a rank will not come to tell how it went, if so.
    pub(super) fn losses(&self) -> impl Fn() -> Option<String> + Send + Sync + 'static {
        let (control, lost, began) = (self.control.clone(), self.lost.clone(), self.began);
        move || match &control {
            Some(control) => control.lost().map(in_words),
            None => lost.clone().or_else(|| lost_alone(began.elapsed())),
        }
    }

    /// For a rank that has heard from all how it went.
    pub(super) fn end(self, outcome: Result<Parts, String>) -> Result<Attached, String> {
        let Self { communicator, control, are_processes, .. } = self;
        match (outcome, communicator) {
            (Ok((prepared, sequence)), Some(communicator)) => {
                let control = control.expect("a communicator has one");
                let replays = Mutex::default();
                let attached = Attached { communicator, control, prepared, sequence, are_processes, replays };
                if !attached.is_cpu() {
                    attached.control.hold();
                }
                Ok(attached)
            }
            (outcome, communicator) => {
                // A peer may not have heard yet, to which the end of this rank without a goodbye would be a loss.
                match (communicator, control) {
                    (Some(communicator), _) => drop(communicator),
                    (None, Some(control)) => drop(control.leave(LEAVE_PATIENCE)),
                    (None, None) => (),
                }
                Err(outcome.err().unwrap_or_else(|| "there is no communicator".into()))
            }
        }
    }

    /// For a rank that does not hear how it went: its peers should not wait for it.
    pub(super) fn give_up(self) {
        if let Some(control) = &self.control {
            control.give_up();
        }
    }
}

/// Whether a rank without a control plane has waited long enough, by the time since all began to connect.
fn lost_alone(waited: Duration) -> Option<String> {
    (waited > PATIENCE_ALONE).then(|| {
        format!("the other ranks did not come within {} s; this one could not connect to them", waited.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its peers look for it until their own patience ends, and come then.
    #[test]
    fn a_rank_alone_waits_longer_than_its_peers_look_for_it() {
        assert_eq!(lost_alone(PATIENCE + Duration::from_secs(2)), None);
        assert!(lost_alone(PATIENCE + Duration::from_secs(60)).unwrap().contains("240 s"));
    }
}
