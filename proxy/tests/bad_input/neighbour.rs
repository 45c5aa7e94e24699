//! A caller that does nothing wrong, and must not feel what others do.

use std::net::SocketAddr;
use std::time::Duration;

use bench::client::Client;
use bench::tls::TlsIdentity;
use bench::wait::soon;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::pair::{ECHO, UNARY};

/// Between two calls: a load that leaves the machine to the others.
const PAUSE: Duration = Duration::from_millis(2);
/// Every so many calls come by a new connection.
const NEW_EVERY: u64 = 10;

/// Calls, one after another, for as long as it lives.
pub(crate) struct Neighbour {
    stop: oneshot::Sender<()>,
    calling: JoinHandle<u64>,
}

impl Neighbour {
    /// Calls by old and new connections.
    pub(crate) async fn start(addr: SocketAddr, tls: Option<TlsIdentity>) -> Self {
        Self::begin(addr, tls, true).await
    }

    /// Keeps to one connection.
    pub(crate) async fn settled(addr: SocketAddr, tls: Option<TlsIdentity>) -> Self {
        Self::begin(addr, tls, false).await
    }

    async fn begin(addr: SocketAddr, tls: Option<TlsIdentity>, moves: bool) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let mut client = Client::connect(addr, tls.clone()).await.expect("a connection");
        call(&client, 0).await;
        let calling = tokio::spawn(async move {
            let mut calls = 1;
            while stopped.try_recv().is_err() {
                if moves && calls % NEW_EVERY == 0 {
                    let new = soon("a connection", Client::connect(addr, tls.clone())).await;
                    client = new.expect("a new connection");
                }
                call(&client, calls).await;
                calls += 1;
                tokio::time::sleep(PAUSE).await;
            }
            calls
        });
        Self { stop, calling }
    }

    /// Ends it. None of its calls has failed; how many there were.
    pub(crate) async fn unharmed(self) -> u64 {
        let _ = self.stop.send(());
        self.calling.await.expect("each call of a neighbour goes well")
    }
}

async fn call(client: &Client, number: u64) {
    let outcome = soon(format!("call {number}"), client.unary(ECHO, UNARY, b"neighbour")).await;
    let outcome = outcome.unwrap_or_else(|fault| panic!("call {number} of a neighbour: {fault}"));
    assert!(outcome.is_ok(), "call {number} of a neighbour: {outcome:?}");
    assert_eq!(outcome.last.as_deref(), Some(&b"neighbour"[..]));
}
