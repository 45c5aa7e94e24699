//! Options of the sockets that carry calls, and what the kernel knows of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long sent bytes may stay unacknowledged, or a window closed, before the connection is given up
/// (gRFC A18), where no service of the mesh says otherwise by `upstream.user_timeout`.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence after which the kernel asks whether the peer is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// TCP_NODELAY, TCP_USER_TIMEOUT and SO_KEEPALIVE. A kernel that lacks one of them carries calls all the
/// same, so a refusal is not an error.
pub(crate) fn tune(stream: &TcpStream, user_timeout: Duration) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(user_timeout));
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// Where a connection was going before the kernel redirected it to us; `None` if it came by itself. With conntrack
/// loaded the kernel answers for direct connections too, with the address that they did go to.
pub(crate) fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = canonical(stream.local_addr().ok()?);
    let socket = SockRef::from(stream);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    original.ok()?.as_socket().map(canonical).filter(|original| *original != local)
}

/// An address without what a dual-stack socket makes of it: `::ffff:a.b.c.d` is `a.b.c.d`.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an address is one of this host's.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_addresses_are_local_and_others_are_not() {
        assert!(is_local(IpAddr::from([127, 0, 0, 1])) && is_local(IpAddr::from([127, 9, 9, 9])));
        // TEST-NET-3 (RFC 5737) is nobody's.
        assert!(!is_local(IpAddr::from([203, 0, 113, 7])));
    }

    #[tokio::test]
    async fn what_is_sent_may_stay_unacknowledged_as_long_as_was_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&tcp, Duration::from_millis(1_234));
        assert_eq!(SockRef::from(&tcp).tcp_user_timeout().unwrap(), Some(Duration::from_millis(1_234)));
    }

    #[tokio::test]
    async fn a_direct_connection_has_no_original_destination() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        assert_eq!(original_destination(&far.unwrap().0), None);
        assert_eq!(original_destination(&near.unwrap()), None);
    }
}
