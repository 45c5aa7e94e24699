//! Counts the bytes between a sidecar and its app, so that a compressed message is seen to be one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A TCP relay in front of `app`, for as long as the runtime lives.
pub(crate) struct Meter {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    to_app: Arc<AtomicU64>,
    from_app: Arc<AtomicU64>,
}

impl Meter {
    pub(crate) async fn start(app: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (to_app, from_app) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let meter = Self { addr: listener.local_addr()?, to_app, from_app };
        let (to_app, from_app) = (meter.to_app.clone(), meter.from_app.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // An app that is not there is what the sidecar sees too: a connection that ends.
                let Ok(far) = TcpStream::connect(app).await else { continue };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(relay(near_read, far_write, to_app.clone()));
                tokio::spawn(relay(far_read, near_write, from_app.clone()));
            }
        });
        Ok(meter)
    }

    /// What has gone to the app and what has come from it, in bytes.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.to_app.load(Ordering::Relaxed), self.from_app.load(Ordering::Relaxed))
    }
}

async fn relay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: Arc<AtomicU64>) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece).await? {
            0 => return to.shutdown().await,
            read => {
                count.fetch_add(read as u64, Ordering::Relaxed);
                to.write_all(&piece[..read]).await?;
            }
        }
    }
}
