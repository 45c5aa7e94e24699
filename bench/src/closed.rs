//! A port where nobody listens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of the loopback interface that is taken and where nobody listens, for as long as this lives: connections
/// to it are refused, and no other test is given it.
pub struct ClosedPort {
    /// Where nobody listens.
    pub addr: SocketAddr,
    _taken: Socket,
}

impl ClosedPort {
    /// Takes one.
    ///
    /// # Errors
    /// When there is none.
    pub fn take() -> io::Result<Self> {
        let taken = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        taken.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into())?;
        let addr = taken.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no IP address"))?;
        Ok(Self { addr, _taken: taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_it_are_refused() {
        let closed = ClosedPort::take().expect("a port");
        let refused = std::net::TcpStream::connect(closed.addr).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
