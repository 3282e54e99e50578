//! Ranks that are processes of their own: this test program once more for each.

use std::process::Command;
use std::sync::Arc;

use myelon_ccl::bootstrap::{RendezvousServer, TcpBootstrap, TcpOptions, UniqueId};
use myelon_ccl::{Communicator, Options, Rank, WorldSize};

use super::{child, device};

const RANK: &str = "TEST_RANK";
const WORLD: &str = "TEST_WORLD";
const ID: &str = "TEST_ID";

/// Where the ranks of one communicator meet.
pub(crate) struct Group {
    server: RendezvousServer,
    world: u32,
}

impl Group {
    pub(crate) fn new(world: u32) -> Self {
        Self { server: RendezvousServer::start(&TcpOptions::default()).unwrap(), world }
    }

    pub(crate) fn ranks(&self) -> impl Iterator<Item = u32> {
        0..self.world
    }

    /// The command that runs `test` of this program as `rank`; the test calls [`join`].
    pub(crate) fn command(&self, rank: u32, test: &str) -> Command {
        let mut command = child::command(test);
        command.env(RANK, rank.to_string()).env(WORLD, self.world.to_string()).env(ID, self.server.id().to_text());
        command
    }
}

/// The communicator of the rank that this process is; `None` in a process that no group started.
pub(crate) fn join(options: Options) -> Option<Communicator> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u32>().unwrap());
    let (rank, world) = (Rank(number(RANK)?), WorldSize::new(number(WORLD)?).unwrap());
    let id: UniqueId = std::env::var(ID).unwrap().parse().unwrap();
    let bootstrap = TcpBootstrap::connect(&id, rank, world, &TcpOptions::default()).unwrap();
    Some(Communicator::connect(device(rank), Arc::new(bootstrap), options).unwrap())
}
