//! HeldLeases in destinations on this machine: the place looks at a lease and changes it under a lock of its
//! own, and the machine's clock says when its time is up.

use std::sync::Arc;

use jiff::Timestamp;

use super::blocking;
use crate::error::Result;
use crate::state::{Acquired, Held, HeldLeases, Lease};

/// A place that keeps leases.
pub trait LeaseKeeper: Send + Sync + 'static {
    /// What a person would call it.
    fn shown(&self) -> &str;

    /// Looks at the leases and changes some on behalf of the one of this name, with nobody else in between:
    /// `how` gets all as stored, and says which are to be stored, and how.
    fn change_lease<T>(
        &self,
        name: &str,
        how: impl FnOnce(&HeldLeases) -> Result<(T, HeldLeases)>,
    ) -> Result<T>;
}

/// [`crate::state::StateStore::acquire`].
pub async fn acquire(place: &Arc<impl LeaseKeeper>, lease: &Lease) -> Result<Acquired> {
    change(place, lease, |_, lease, stored| {
        Ok(lease.claim(stored, Timestamp::now()))
    })
    .await
}

/// [`crate::state::StateStore::renew`].
pub async fn renew(place: &Arc<impl LeaseKeeper>, lease: &Lease) -> Result<()> {
    change(place, lease, |shown, lease, stored| {
        let held = lease.extend(own(lease, stored), Timestamp::now(), shown)?;
        Ok(((), HeldLeases::from([(lease.name.clone(), held)])))
    })
    .await
}

/// [`crate::state::StateStore::release`].
pub async fn release(place: &Arc<impl LeaseKeeper>, lease: &Lease) -> Result<()> {
    change(place, lease, |_, lease, stored| {
        let free = lease.give_up(own(lease, stored));
        Ok((
            (),
            free.map(|held| (lease.name.clone(), held))
                .into_iter()
                .collect(),
        ))
    })
    .await
}

fn own(lease: &Lease, stored: &HeldLeases) -> Option<Held> {
    stored.get(&lease.name).cloned()
}

/// What comes of leases as stored: the place's name, the run's wish, and the leases.
type Change<T> = fn(&str, &Lease, &HeldLeases) -> Result<(T, HeldLeases)>;

async fn change<T: Send + 'static>(
    place: &Arc<impl LeaseKeeper>,
    lease: &Lease,
    how: Change<T>,
) -> Result<T> {
    let (place, lease) = (place.clone(), lease.clone());
    blocking::run(move || {
        place.change_lease(&lease.name, |stored| how(place.shown(), &lease, stored))
    })
    .await
}
