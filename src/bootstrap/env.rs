//! From a launcher's environment to a connected bootstrap.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use super::address_file::AddressFile;
use super::connect::Meeting;
use super::launcher::{LaunchInfo, Launcher, Root};
use super::{Bootstrap, LocalBootstrap, RendezvousServer, TcpBootstrap, TcpOptions, UniqueId};
use crate::error::{Error, Result};
use crate::types::Rank;

/// Connects the ranks of the job that a launcher started; `None` when the environment names no launcher.
///
/// [`launcher`](super::launcher) lists the variables. Besides them, `MYELON_SOCKET_ADDR` (an IP address) chooses what
/// rank 0 listens on where no address is given, and `MYELON_SECRET` (any text, equal on all ranks) is the secret of
/// groups that meet at an address.
///
/// Security: ranks that meet through a file share a random secret that only this user can read. Ranks that meet at an
/// address share what [`UniqueId::derive`] makes of `MYELON_SECRET`; without it, of the launcher's job identity and
/// the user id. That keeps jobs apart and strays and scanners out, but not a user of this host who looks both up.
///
/// One group at a time can meet under one job identity: give further communicators a [`UniqueId`] of their own through
/// the first group's [`Bootstrap::all_gather`].
///
/// Errors: [`Error::Config`] for a variable that is wrong; [`Error::Io`] when rank 0 cannot listen; those of
/// [`TcpBootstrap::connect`].
pub fn from_env(options: &TcpOptions) -> Result<Option<Box<dyn Bootstrap>>> {
    from_variables(&|name| std::env::var(name).ok(), &std::env::temp_dir(), options)
}

/// Whether `MYELON_SOCKET_ADDR`, if it is set, is an address.
///
/// Errors: [`Error::Config`] naming it.
pub fn check_socket_address() -> Result<()> {
    with_interface(&|name: &str| std::env::var(name).ok(), &TcpOptions::default()).map(drop)
}

impl UniqueId {
    /// A new id, and the server that its ranks meet at; keep the server until all are connected.
    ///
    /// The server listens on loopback or on `MYELON_SOCKET_ADDR`.
    ///
    /// Errors: [`Error::Config`] for a bad `MYELON_SOCKET_ADDR`; those of [`RendezvousServer::start`].
    pub fn create() -> Result<(Self, RendezvousServer)> {
        Self::create_with(&TcpOptions::default())
    }

    /// As [`UniqueId::create`], of a group with the silence that `options` has. What they bind counts where `MYELON_SOCKET_ADDR` says
    /// nothing.
    pub fn create_with(options: &TcpOptions) -> Result<(Self, RendezvousServer)> {
        let lookup = |name: &str| std::env::var(name).ok();
        let server = RendezvousServer::start(&with_interface(&lookup, options)?)?;
        Ok((server.id(), server))
    }
}

fn from_variables(
    lookup: &impl Fn(&str) -> Option<String>,
    files: &Path,
    options: &TcpOptions,
) -> Result<Option<Box<dyn Bootstrap>>> {
    let Some(info) = Launcher::from_env(lookup)? else { return Ok(None) };
    let options = with_interface(lookup, &options.checked()?)?;
    if info.world_size.get() == 1 {
        let alone = LocalBootstrap::group(info.world_size, options.deadline).pop();
        return Ok(alone.map(|bootstrap| Box::new(bootstrap) as Box<dyn Bootstrap>));
    }
    let bootstrap = match &info.root {
        Root::Address { host, port } => {
            let secret = lookup("MYELON_SECRET").filter(|secret| !secret.is_empty());
            meet_at_address(&info, resolve(host, *port)?, &shared_secret(&info, secret), &options)
        }
        Root::File => meet_through_file(&info, files, &options),
    }?;
    Ok(Some(Box::new(bootstrap)))
}

fn meet_at_address(info: &LaunchInfo, address: SocketAddr, shared: &str, options: &TcpOptions) -> Result<TcpBootstrap> {
    let entered = Instant::now();
    let id = UniqueId::derive(address, shared.as_bytes());
    let server = (info.rank == Rank(0)).then(|| listen_patiently(&id, options)).transpose()?;
    let mut options = options.clone();
    options.join = Some(options.joining().saturating_sub(entered.elapsed()));
    // WHY: a server of the job's earlier run may still hold the address for a while.
    let meeting = Meeting { locate: Box::new(move || Ok(Some(id))), patience: options.joining() };
    let bootstrap = TcpBootstrap::connect_by(meeting, info.rank, info.world_size, &options)?;
    Ok(match server {
        Some(server) => bootstrap.hosting(server),
        None => bootstrap,
    })
}

/// Listens at the address of `id`, waiting for its last user to go.
fn listen_patiently(id: &UniqueId, options: &TcpOptions) -> Result<RendezvousServer> {
    let entered = Instant::now();
    loop {
        match RendezvousServer::start_at(id, options) {
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse && entered.elapsed() < options.joining() / 2 =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}

fn meet_through_file(info: &LaunchInfo, files: &Path, options: &TcpOptions) -> Result<TcpBootstrap> {
    // WHY: the parent is the one thing that processes of a nameless job have in common.
    let parent = || format!("child of {}", rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()));
    let identity = format!("{} {} {}", info.source, info.world_size, info.job.clone().unwrap_or_else(parent));
    let mut file = AddressFile::of_job(files, &identity)?;
    if info.rank == Rank(0) {
        let server = RendezvousServer::start(options)?;
        file.publish(&server.id())?;
        // The file goes when everyone has come, or when this fails.
        return Ok(TcpBootstrap::connect(&server.id(), info.rank, info.world_size, options)?.hosting(server));
    }
    let meeting = Meeting { locate: Box::new(move || file.read()), patience: options.joining() };
    TcpBootstrap::connect_by(meeting, info.rank, info.world_size, options)
}

/// What the ranks of a job that meet at an address have in common, and others ideally not.
fn shared_secret(info: &LaunchInfo, secret: Option<String>) -> String {
    match secret {
        Some(secret) => format!("secret {secret}"),
        None => {
            let job = info.job.as_deref().unwrap_or("");
            format!("job {} {job} user {}", info.source, rustix::process::geteuid().as_raw())
        }
    }
}

/// INVARIANT: every rank of a host picks the same address: the first IPv4 one, as servers listen on one only.
fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let what = || format!("resolving '{host}' of MYELON_ROOT or MASTER_ADDR");
    let found: Vec<_> = (host, port).to_socket_addrs().map_err(|source| Error::io(what(), source))?.collect();
    let none = || Error::io(what(), std::io::Error::other("it has no address"));
    found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().ok_or_else(none)
}

/// `options` with the interface that `MYELON_SOCKET_ADDR` chooses.
fn with_interface(lookup: &impl Fn(&str) -> Option<String>, options: &TcpOptions) -> Result<TcpOptions> {
    let text = lookup("MYELON_SOCKET_ADDR").filter(|text| !text.is_empty());
    let parse = |text: String| {
        text.trim().parse().map_err(|_| Error::Config {
            source_name: "environment".into(),
            key: "MYELON_SOCKET_ADDR".into(),
            detail: format!("'{text}' is not an IP address: give one of this machine, 127.0.0.1 by default"),
        })
    };
    let bind = text.map(parse).transpose()?.unwrap_or(options.bind);
    Ok(TcpOptions { bind, ..options.clone() })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};

    use super::*;

    fn options() -> TcpOptions {
        TcpOptions { deadline: Duration::from_secs(20), ..TcpOptions::default() }
    }

    /// Runs `size` ranks on threads, each with its variables; the results in rank order.
    fn launch(
        size: u32,
        files: &Path,
        variables: impl Fn(u32, &str) -> Option<String> + Sync,
    ) -> Vec<Result<Option<Box<dyn Bootstrap>>>> {
        std::thread::scope(|scope| {
            let variables = &variables;
            let started: Vec<_> = (0..size)
                .map(|rank| scope.spawn(move || from_variables(&|name| variables(rank, name), files, &options())))
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn use_and_leave(group: Vec<Result<Option<Box<dyn Bootstrap>>>>) {
        std::thread::scope(|scope| {
            for (bootstrap, rank) in group.into_iter().zip(0..) {
                let bootstrap = bootstrap.unwrap().unwrap();
                scope.spawn(move || {
                    assert_eq!(bootstrap.rank(), Rank(rank));
                    bootstrap.barrier("use").unwrap();
                    assert!(bootstrap.leave(options().deadline));
                });
            }
        });
    }

    fn slurm(rank: u32, size: u32, name: &str) -> Option<String> {
        match name {
            "SLURM_PROCID" | "SLURM_LOCALID" => Some(rank.to_string()),
            "SLURM_NTASKS" => Some(size.to_string()),
            "SLURM_JOB_ID" => Some("12".into()),
            "SLURM_STEP_ID" => Some("0".into()),
            _ => None,
        }
    }

    #[test]
    fn no_launcher_is_none_and_one_rank_needs_no_socket() {
        assert!(from_variables(&|_| None, Path::new("/nowhere"), &options()).unwrap().is_none());
        use_and_leave(launch(1, Path::new("/nowhere"), |rank, name| slurm(rank, 1, name)));
    }

    #[test]
    fn ranks_meet_through_a_file_one_group_after_the_other() {
        let files = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            use_and_leave(launch(3, files.path(), |rank, name| slurm(rank, 3, name)));
        }
    }

    /// An earlier job with the same identity died: its file names a port where nobody, or somebody else, listens.
    #[test]
    fn stale_files_fool_nobody() {
        let stranger = RendezvousServer::start(&options()).unwrap();
        let elsewhere = UniqueId::derive(stranger.id().address(), b"the stale secret");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for stale in [elsewhere, UniqueId::derive(closed, b""), UniqueId::derive(silent.local_addr().unwrap(), b"")] {
            let files = tempfile::tempdir().unwrap();
            let mut file = AddressFile::of_job(files.path(), "Slurm 2 12.0").unwrap();
            file.publish(&stale).unwrap();
            let group = launch(2, files.path(), |rank, name| {
                if rank == 0 && name == "SLURM_PROCID" {
                    std::thread::sleep(Duration::from_millis(300));
                }
                slurm(rank, 2, name)
            });
            use_and_leave(group);
        }
    }

    #[test]
    fn ranks_meet_at_an_address_that_is_free_a_little_later() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(taken);
        });
        let group = launch(2, Path::new("/nowhere"), |rank, name| match name {
            "RANK" => Some(rank.to_string()),
            "WORLD_SIZE" => Some("2".into()),
            "MASTER_ADDR" => Some("localhost".into()),
            "MASTER_PORT" => Some((port - 1).to_string()),
            _ => None,
        });
        use_and_leave(group);
    }

    #[test]
    fn the_secret_decides_who_meets() {
        let info = |job: &str| {
            Launcher::from_env(&|name: &str| match name {
                "OMPI_COMM_WORLD_RANK" => Some("0".into()),
                "OMPI_COMM_WORLD_SIZE" => Some("2".into()),
                "PMIX_NAMESPACE" => Some(job.into()),
                _ => None,
            })
            .unwrap()
            .unwrap()
        };
        assert_eq!(shared_secret(&info("a"), Some("s".into())), shared_secret(&info("b"), Some("s".into())));
        assert_ne!(shared_secret(&info("a"), None), shared_secret(&info("b"), None));
        assert_ne!(shared_secret(&info("a"), Some("s".into())), shared_secret(&info("a"), Some("t".into())));
    }

    #[test]
    fn the_variable_chooses_the_interface() {
        let bound = |text: &str| with_interface(&|_| Some(text.to_owned()), &options());
        assert_eq!(bound("").unwrap().bind, options().bind);
        assert_eq!(bound("127.0.0.2").unwrap().bind, IpAddr::from([127, 0, 0, 2]));
        let error = bound("eth0").unwrap_err().to_string();
        assert!(error.contains("MYELON_SOCKET_ADDR") && error.contains("'eth0'"), "{error}");
        let everywhere = RendezvousServer::start(&bound("0.0.0.0").unwrap()).unwrap();
        assert!(everywhere.id().address().ip().is_loopback(), "an id leads somewhere");
        let narrow = RendezvousServer::start(&bound("127.0.0.2").unwrap()).unwrap();
        assert_eq!(narrow.id().address().ip(), IpAddr::from([127, 0, 0, 2]));
    }
}
