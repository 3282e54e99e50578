//! Children of a group: who has which rank in one, and how the members of one find each other over TCP.

use std::sync::Arc;

use super::connect::Meeting;
use super::{
    Bootstrap, LocalBootstrap, RendezvousServer, TcpBootstrap, TcpOptions, UNIQUE_ID_BYTES, UniqueId, cut_detail,
    name_ranks,
};
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// What a rank does that splits off.
pub(super) const PHASE: &str = "splitting";

/// The rank that `rank` has in a child, and the child's size.
///
/// Errors: [`Error::InvalidArgument`] where it is none of the members, or these are too many.
pub(super) fn place(members: &[Rank], rank: Rank) -> Result<(Rank, WorldSize)> {
    let world = WorldSize::new(members.len() as u32)?;
    let place = members.iter().position(|&member| member == rank);
    let place = place.ok_or_else(|| {
        Error::invalid(format!("rank {rank} is not among {}: name the members of its own child", name_ranks(members)))
    })?;
    Ok((Rank(place as u32), world))
}

/// Joins the child of `members` at a server of its first rank, whose id `gather`, an all-gather of the parent, passes on. Gives up
/// where `go_on` fails for the members.
///
/// Errors: as [`Bootstrap::split`].
pub(super) fn meet(
    rank: Rank,
    members: Option<&[Rank]>,
    options: &TcpOptions,
    gather: impl Fn(&[u8]) -> Result<Vec<Vec<u8>>>,
    go_on: impl Fn(&[Rank]) -> Result<()>,
) -> Result<Option<Arc<dyn Bootstrap>>> {
    let places = members.map(|members| place(members, rank)).transpose()?;
    let leads = places.is_some_and(|(place, world)| place == Rank(0) && world.get() > 1);
    let server = leads.then(|| RendezvousServer::start(options));
    // WHY: a rank that failed takes part all the same, so that its child's others get the reason and need not wait for it.
    let offer = match &server {
        None => Vec::new(),
        Some(Ok(server)) => server.id().to_bytes().to_vec(),
        Some(Err(error)) => cut_detail(&error.to_string()).into(),
    };
    let offers = gather(&offer)?;
    let (Some(members), Some((place, world))) = (members, places) else { return Ok(None) };
    if world.get() == 1 {
        let alone = LocalBootstrap::group(world, options.deadline).pop();
        return Ok(alone.map(|alone| Arc::new(alone) as Arc<dyn Bootstrap>));
    }
    let server = server.transpose()?;
    let offer = &offers[members[0].index()];
    if offer.len() != UNIQUE_ID_BYTES {
        let why = String::from_utf8_lossy(offer);
        let detail = format!("rank {}, the first of this rank's child, opened no place to meet: {why}", members[0]);
        return Err(Error::Bootstrap { rank, phase: PHASE, detail });
    }
    let place_to_meet = Meeting::at(UniqueId::from_bytes(offer)?);
    let child = TcpBootstrap::connect_while(place_to_meet, place, world, options, &|| go_on(members))?;
    Ok(Some(match server {
        Some(server) => Arc::new(child.hosting(server)),
        None => Arc::new(child),
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn options() -> TcpOptions {
        TcpOptions { deadline: Duration::from_secs(20), ..TcpOptions::default() }
    }

    #[test]
    fn places_are_those_of_the_list_and_strangers_are_refused() {
        let members = [3, 0, 2].map(Rank);
        let places = [0, 2, 3].map(|rank| place(&members, Rank(rank)).unwrap());
        assert_eq!(places, [1, 2, 0].map(|place| (Rank(place), WorldSize::new(3).unwrap())));
        let message = place(&members, Rank(1)).unwrap_err().to_string();
        assert!(message.contains("rank 1 is not among ranks 3, 0, 2"), "{message}");
        assert!(place(&[Rank(0); 9], Rank(0)).is_err());
    }

    #[test]
    fn the_reason_of_a_first_rank_without_a_server_reaches_the_others() {
        let elsewhere = "192.0.2.1".parse().unwrap();
        let (offers, members) = (std::cell::RefCell::new(Vec::new()), [Rank(1), Rank(0)]);
        let unreachable = TcpOptions { bind: elsewhere, ..options() };
        let gather = |offer: &[u8]| {
            offers.replace(vec![Vec::new(), offer.to_vec()]);
            Ok(offers.borrow().clone())
        };
        let first = meet(Rank(1), Some(&members), &unreachable, gather, |_| Ok(()));
        assert!(first.unwrap_err().to_string().contains("listening on 192.0.2.1"));
        let second = meet(Rank(0), Some(&members), &options(), |_| Ok(offers.borrow().clone()), |_| Ok(()));
        let message = second.unwrap_err().to_string();
        assert!(message.contains("rank 1, the first") && message.contains("listening on 192.0.2.1"), "{message}");
    }
    #[test]
    fn a_member_that_is_lost_on_its_way_is_not_waited_for() {
        let (members, asked) = ([Rank(0), Rank(1)], std::cell::Cell::new(0));
        let lost = |_: &[Rank]| {
            asked.set(asked.get() + 1);
            let error = Error::PeerLost { rank: Rank(0), peer: Rank(1), detail: "closed".into() };
            if asked.get() > 2 { Err(error) } else { Ok(()) }
        };
        let began = std::time::Instant::now();
        let error = meet(Rank(0), Some(&members), &options(), |offer| Ok(vec![offer.to_vec(), Vec::new()]), lost);
        assert!(matches!(error, Err(Error::PeerLost { peer: Rank(1), .. })));
        assert!(began.elapsed() < options().deadline / 2);
    }
}
