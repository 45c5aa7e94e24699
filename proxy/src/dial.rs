//! Opens TCP connections, and remembers which of them are ours.
//!
//! Where connections are redirected to us by a packet filter that does not leave out our own, each connection that
//! we open would come back as a new one, and so on without end. Whoever takes in a redirected connection asks
//! [`Dialled::holds`] first.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::socket;

/// The connections that we opened, as where from and where to: a local address alone may be used for several
/// destinations, by us and by the app. Locked when one opens or closes, and when a redirected
/// connection comes in; never for a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialled {
    open: Arc<Mutex<HashSet<Ends>>>,
}

/// Our end of a connection, and the address that was dialled.
type Ends = (SocketAddr, SocketAddr);

/// A connection that we opened, remembered until this is dropped.
#[derive(Debug)]
pub(crate) struct Remembered {
    dialled: Dialled,
    ends: Option<Ends>,
}

impl Dialled {
    /// Connects to `address`, and gives up what it sends when that stays unacknowledged for `user_timeout`; the
    /// caller bounds the time to connect.
    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
        user_timeout: Duration,
    ) -> io::Result<(TcpStream, Remembered)> {
        let tcp = TcpStream::connect(address).await?;
        socket::tune(&tcp, user_timeout);
        let ends = tcp.local_addr().ok().map(|local| (socket::canonical(local), socket::canonical(address)));
        self.lock().extend(ends);
        Ok((tcp, Remembered { dialled: self.clone(), ends }))
    }

    /// Whether the connection that comes from `peer` and was going to `original` is one that we opened ourselves.
    /// Right after it has come, it may not be noted yet: whoever waits for its first byte asks again.
    pub(crate) fn holds(&self, peer: SocketAddr, original: SocketAddr) -> bool {
        self.lock().contains(&(socket::canonical(peer), socket::canonical(original)))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Ends>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if let Some(ends) = &self.ends {
            self.dialled.lock().remove(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_of_our_own_is_known_while_it_is_open() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dialled, address) = (Dialled::default(), listener.local_addr().unwrap());
        let (tcp, remembered) = dialled.dial(address, socket::USER_TIMEOUT).await.unwrap();
        let peer = listener.accept().await.unwrap().1;
        assert!(dialled.holds(peer, address));
        // Another connection may come from the same port of this host to another destination.
        assert!(!dialled.holds(peer, SocketAddr::from(([203, 0, 113, 7], 80))));
        drop((tcp, remembered));
        assert!(!dialled.holds(peer, address));
    }
}
