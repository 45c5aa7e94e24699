//! What a control plane costs: how fast a change reaches everybody, and memory, CPU and bytes for a large mesh.
//!
//! The control plane is a process of its own, over mTLS on loopback; its clients are
//! [`Subscriber`](crate::subscriber::Subscriber)s in this one.

mod change;
mod crowd;
mod ground;
mod mesh;
mod page;

use std::io;
use std::path::Path;

pub use crate::control::change::{Change, ChangeFigures, Changes};
pub use crate::control::crowd::{Crowd, Who};
pub use crate::control::page::ControlFigures;
use crate::taken::Taken;

/// Clients and services of the quick rows, and of the large ones.
const FEW: usize = 200;
const MANY: usize = 1_000;
/// Envoys beside a large mesh.
const ENVOYS: usize = 50;
/// Changes of each kind in one round.
const CHANGES: usize = 20;

/// Measures it. `binary`: `outrigger-control`; the quick rows `runs` times, the large ones once; `scale` divides the
/// numbers of clients and services.
///
/// # Errors
/// Names what went wrong, or what did not come in time.
pub async fn measure(binary: &Path, runs: usize, scale: usize) -> io::Result<ControlFigures> {
    let of = |count: usize| (count / scale).max(ground::CALLED + 1);
    let mut taken = Taken::now().await?;
    let mut rounds = Vec::with_capacity(runs);
    for _ in 0..runs {
        rounds.push(change::round(binary, of(FEW), of(FEW), CHANGES).await?);
    }
    let changes = Changes::of(of(FEW), of(FEW), CHANGES, &rounds);
    // How it grows: first with the services, then with the clients.
    let sizes = [(4, 1), (2, 1), (1, 1), (1, 2), (1, 4)];
    let sizes = sizes.map(|(services, clients)| (of(MANY / services), of(MANY / clients)));
    let (mut on_demand, mut everything) = (Vec::new(), Vec::new());
    for (services, clients) in sizes {
        on_demand.push(crowd::measure(binary, clients, services, Who::OnDemand).await?);
        everything.push(crowd::measure(binary, clients, services, Who::Everything).await?);
    }
    let envoys = vec![crowd::measure(binary, of(ENVOYS), of(MANY), Who::Envoy).await?];
    taken.end().await?;
    Ok(ControlFigures { taken, changes, on_demand, everything, envoys })
}

/// One round of the quick rows, for a test: these many clients and services, and changes of each kind.
///
/// # Errors
/// As [`measure`].
pub async fn quick(
    binary: &Path,
    clients: usize,
    services: usize,
    changes: usize,
) -> io::Result<[Change; 2]> {
    change::round(binary, clients, services, changes).await
}

/// A crowd, for a test.
///
/// # Errors
/// As [`measure`].
pub async fn crowd(binary: &Path, clients: usize, services: usize, who: Who) -> io::Result<Crowd> {
    crowd::measure(binary, clients, services, who).await
}
