//! A relay before a replica, which can turn into a black hole: bytes stand still in both directions and new
//! connections are never answered, until it goes on.
//!
//! It stands for a network that drops packets, which nobody can make without root. It is kinder than one: the kernel
//! still acknowledges what is sent, so that TCP itself notices nothing, and nothing is lost when it is over.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// Bytes that one direction of one connection moves at a time.
const BUFFER: usize = 16 << 10;

/// Before another try to accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// A running relay; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Relay(watch::Sender<bool>);

/// Whether bytes may move.
#[derive(Clone, Debug)]
struct Gate(watch::Receiver<bool>);

impl Gate {
    /// Waits until they may; an error once the relay is gone.
    async fn open(&mut self) -> io::Result<()> {
        let open = self.0.wait_for(|swallowing| !*swallowing).await;
        open.map(drop).map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }

    /// Waits until they may not, or the relay is gone.
    async fn shut(&mut self) {
        // Both lead to another look at `open`.
        let _ = self.0.wait_for(|swallowing| *swallowing).await;
    }
}

impl Relay {
    /// Passes connections to `listener` on to `to`.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub(crate) fn start(listener: StdListener, to: SocketAddr) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (swallow, gate) = watch::channel(false);
        // It ends with `swallow`.
        tokio::spawn(accept(listener, to, Gate(gate)));
        Ok(Self(swallow))
    }

    /// Begins to swallow everything, or goes on.
    pub(crate) fn swallow(&self, everything: bool) {
        self.0.send_replace(everything);
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, mut gate: Gate) -> io::Result<()> {
    loop {
        // Connections meanwhile wait in the kernel's backlog, where nobody answers them.
        gate.open().await?;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gate.shut() => continue,
        };
        // What cannot be accepted now (no descriptors) may be a moment later.
        let Ok((caller, _)) = accepted else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let gate = gate.clone();
        // That it breaks is seen by both ends: they are closed.
        tokio::spawn(async move { pass(caller, to, gate).await });
    }
}

async fn pass(caller: TcpStream, to: SocketAddr, gate: Gate) -> io::Result<()> {
    let callee = TcpStream::connect(to).await?;
    caller.set_nodelay(true)?;
    callee.set_nodelay(true)?;
    let (from_caller, to_caller) = caller.into_split();
    let (from_callee, to_callee) = callee.into_split();
    let there = one_way(from_caller, to_callee, gate.clone());
    let back = one_way(from_callee, to_caller, gate);
    tokio::try_join!(there, back).map(drop)
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: Gate) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        gate.open().await?;
        let length = tokio::select! {
            read = from.read(&mut buffer) => read?,
            () = gate.shut() => continue,
        };
        // Read and then shut: it waits here.
        gate.open().await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// What has not come by then does not come as long as the black hole lasts.
    const SILENCE: Duration = Duration::from_millis(200);

    /// An echo behind a relay.
    async fn echo() -> (SocketAddr, Relay) {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = server.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = socket.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let listener = StdListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        (address, Relay::start(listener, to).expect("a relay"))
    }

    async fn answer(socket: &mut TcpStream) -> Option<u8> {
        timeout(SILENCE, socket.read_u8()).await.ok().map(|byte| byte.expect("a byte"))
    }

    #[tokio::test]
    async fn a_black_hole_swallows_old_and_new_connections_and_loses_nothing_when_it_is_over() {
        let (address, relay) = echo().await;
        let mut old = TcpStream::connect(address).await.expect("a connection");
        old.write_u8(1).await.expect("sent");
        assert_eq!(old.read_u8().await.expect("an answer"), 1);

        relay.swallow(true);
        old.write_u8(2).await.expect("sent");
        let mut new = TcpStream::connect(address).await.expect("the kernel's own answer");
        new.write_u8(3).await.expect("sent");
        assert_eq!((answer(&mut old).await, answer(&mut new).await), (None, None));

        relay.swallow(false);
        assert_eq!(old.read_u8().await.expect("an answer"), 2);
        assert_eq!(new.read_u8().await.expect("an answer"), 3);
    }

    #[tokio::test]
    async fn the_end_of_one_side_reaches_the_other() {
        let (address, _relay) = echo().await;
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        socket.write_all(b"abc").await.expect("sent");
        socket.shutdown().await.expect("the end");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("an answer");
        assert_eq!(answer, b"abc");
    }
}
