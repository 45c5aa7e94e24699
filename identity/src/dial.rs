//! How control planes are reached: names and TCP. Whoever has a resolver of its own, or must remember what it dialled,
//! brings its own [`Dial`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a [`Dial`] gives back.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Finds and opens connections. Whoever asks bounds the time.
pub trait Dial: Send + Sync {
    /// The addresses of a host name, never none, or in words why there is none. IP addresses and `localhost` are not asked for.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Later<'a, Result<Vec<SocketAddr>, String>>;

    /// Opens a TCP connection.
    fn connect(&self, address: SocketAddr) -> Later<'_, io::Result<Box<dyn Io>>>;
}

/// The system's resolver and sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Dial for Plain {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> Later<'a, Result<Vec<SocketAddr>, String>> {
        Box::pin(async move {
            let found = lookup_host((host, port)).await.map_err(|error| error.to_string())?;
            let found: Vec<_> = found.collect();
            if found.is_empty() { Err("the name has no address".to_owned()) } else { Ok(found) }
        })
    }

    fn connect(&self, address: SocketAddr) -> Later<'_, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await?;
            let _ = tcp.set_nodelay(true);
            Ok(Box::new(tcp) as Box<dyn Io>)
        })
    }
}
