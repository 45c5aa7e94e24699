//! Listeners that say who they are and where the caller meant to go, and callers who ask them.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use bench::wait::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::cluster::Pod;
use crate::namespace::as_user;

/// IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv6/ip6_tables.h), the same number as its IPv4 brother.
const SO_ORIGINAL_DST: i32 = 80;

/// Opens a listener in a pod; it ends with the test.
pub(crate) fn open(pod: &Pod, at: &str) {
    let listener = pod.namespace.within(|| {
        let listener = std::net::TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
        listener.set_nonblocking(true).expect("a socket of our own");
        TcpListener::from_std(listener).expect("a listener")
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let here = plain(stream.local_addr().expect("a connection"));
            let meant = original(&stream).map_or(here, plain);
            let told = match meant == here {
                true => format!("{} direct", here.port()),
                false => format!("{} for {meant}", here.port()),
            };
            tokio::spawn(async move {
                let _ = stream.write_all(told.as_bytes()).await;
            });
        }
    });
}

/// Who answers whom: the listener's port, and `direct` or the address that was meant. Connects from within a
/// pod, as this user.
pub(crate) async fn ask(pod: &Pod, user: u32, to: SocketAddr) -> String {
    let answer = async {
        let mut stream = connect(pod, user, to).await?;
        let mut told = String::new();
        stream.read_to_string(&mut told).await?;
        Ok::<_, io::Error>(told)
    };
    soon(format!("an answer from {to}"), answer).await.unwrap_or_else(|error| error.kind().to_string())
}

/// A connection from within a pod, as this user.
pub(crate) async fn connect(pod: &Pod, user: u32, to: SocketAddr) -> io::Result<TcpStream> {
    let open = || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    pod.namespace.within(|| as_user(user, open))?.connect(to).await
}

/// Where the caller meant to go, as conntrack remembers it.
fn original(stream: &TcpStream) -> Option<SocketAddr> {
    let v4 = || {
        let address: libc::sockaddr_in = option(stream, libc::SOL_IP)?;
        let ip = Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr));
        Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
    };
    let v6 = || {
        let address: libc::sockaddr_in6 = option(stream, libc::SOL_IPV6)?;
        let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
        Some(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, 0).into())
    };
    v4().or_else(v6)
}

fn option<T>(stream: &TcpStream, level: i32) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`, which are its size.
    let got = unsafe {
        libc::getsockopt(stream.as_raw_fd(), level, SO_ORIGINAL_DST, value.as_mut_ptr().cast(), &mut length)
    };
    // SAFETY: every pattern of bits is an address, and all were zeroed.
    (got == 0).then(|| unsafe { value.assume_init() })
}

/// IPv4 as itself where a listener of both protocols took it.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
