//! Opens TCP connections, and remembers which of them are ours.
//!
//! Where connections are redirected to us by a packet filter that does not leave out our own, each connection that
//! we open would come back as a new one, and so on without end. Whoever takes in a redirected connection asks
//! [`Dialled::holds`] first.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;

use crate::socket;

/// The local addresses of the connections that we opened. Locked when one opens or closes, and when a redirected
/// connection comes in; never for a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialled {
    locals: Arc<Mutex<HashSet<SocketAddr>>>,
}

/// A connection that we opened, remembered until this is dropped.
#[derive(Debug)]
pub(crate) struct Remembered {
    dialled: Dialled,
    local: Option<SocketAddr>,
}

impl Dialled {
    /// Connects to `address`; the caller bounds the time.
    pub(crate) async fn dial(&self, address: SocketAddr) -> io::Result<(TcpStream, Remembered)> {
        let tcp = TcpStream::connect(address).await?;
        socket::tune(&tcp);
        let local = tcp.local_addr().ok().map(socket::canonical);
        self.lock().extend(local);
        Ok((tcp, Remembered { dialled: self.clone(), local }))
    }

    /// Whether the connection that comes from `peer` is one that we opened ourselves.
    pub(crate) fn holds(&self, peer: SocketAddr) -> bool {
        self.lock().contains(&socket::canonical(peer))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.locals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if let Some(local) = &self.local {
            self.dialled.lock().remove(local);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_of_our_own_is_known_while_it_is_open() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = Dialled::default();
        let (tcp, remembered) = dialled.dial(listener.local_addr().unwrap()).await.unwrap();
        let peer = listener.accept().await.unwrap().1;
        assert!(dialled.holds(peer));
        drop((tcp, remembered));
        assert!(!dialled.holds(peer));
    }
}
