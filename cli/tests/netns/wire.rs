//! What goes over an interface, read from packets: the payload of every TCP connection.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::namespace::Namespace;

/// What the kernel may hold until we have read it.
const BUFFER_BYTES: i32 = 64 << 20;
/// The longest packet: segmentation may be left to a card that is none.
const PACKET_MAX: usize = 256 << 10;
/// How often the reader looks whether it is still wanted, in microseconds.
const LOOK_MICROS: i64 = 20_000;

/// From one address to another.
type Flow = (SocketAddr, SocketAddr);
type Flows = Arc<Mutex<BTreeMap<Flow, Vec<u8>>>>;

/// Reads along until it is asked what it saw.
pub(crate) struct Tap {
    socket: File,
    flows: Flows,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Tap {
    /// Reads all packets of an interface of this thread's namespace.
    pub(crate) fn here(interface: &str) -> Self {
        let socket = open(interface).unwrap_or_else(|error| panic!("a tap on {interface}: {error}"));
        let (flows, stop) = (Flows::default(), Arc::new(AtomicBool::new(false)));
        let reader = {
            let mut socket = socket.try_clone().expect("another handle");
            let (flows, stop) = (flows.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut packet = vec![0; PACKET_MAX];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(length) = socket.read(&mut packet) else { continue };
                    if let Some((flow, payload)) = payload(&packet[..length]) {
                        let mut flows = flows.lock().expect("nobody panics with it held");
                        flows.entry(flow).or_default().extend_from_slice(payload);
                    }
                }
            })
        };
        Self { socket, flows, stop, reader: Some(reader) }
    }

    /// [`Tap::here`] in another namespace.
    pub(crate) fn within(namespace: &Namespace, interface: &str) -> Self {
        namespace.within(|| Self::here(interface))
    }

    /// The connections in which these bytes went by, in one direction.
    pub(crate) fn with(&self, bytes: &[u8]) -> Vec<Flow> {
        let flows = self.flows.lock().expect("nobody panics with it held");
        let has = |payload: &Vec<u8>| payload.windows(bytes.len()).any(|window| window == bytes);
        flows.iter().filter(|(_, payload)| has(payload)).map(|(flow, _)| *flow).collect()
    }

    /// How many bytes went to an address.
    pub(crate) fn bytes_to(&self, address: SocketAddr) -> usize {
        let flows = self.flows.lock().expect("nobody panics with it held");
        flows.iter().filter(|((_, to), _)| *to == address).map(|(_, payload)| payload.len()).sum()
    }

    /// # Panics
    /// When the kernel had to leave packets out, so that nothing can be said of what was not seen.
    pub(crate) fn assert_complete(&self) {
        // SAFETY: all zeroes are a value of this plain struct.
        let mut counts: libc::tpacket_stats = unsafe { zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, which are the size of the struct.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &mut length,
            )
        };
        assert_eq!((got, counts.tp_drops), (0, 0), "packets were left out");
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

fn open(interface: &str) -> io::Result<File> {
    let protocol = u16::try_from(libc::ETH_P_ALL).expect("it is 3").to_be();
    let name = CString::new(interface)?;
    let buffer = BUFFER_BYTES;
    // SAFETY: plain system calls; the pointers are to values that outlive them, with their sizes.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into());
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let file = File::from_raw_fd(socket);
        let look = libc::timeval { tv_sec: 0, tv_usec: LOOK_MICROS };
        for (option, value, length) in [
            (libc::SO_RCVBUFFORCE, (&raw const buffer).cast(), size_of::<i32>()),
            (libc::SO_RCVTIMEO, (&raw const look).cast(), size_of::<libc::timeval>()),
        ] {
            if libc::setsockopt(socket, libc::SOL_SOCKET, option, value, length as libc::socklen_t) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("it is 17");
        address.sll_protocol = protocol;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()).cast_signed();
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        match libc::bind(socket, (&raw const address).cast(), length) {
            0 => Ok(file),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The TCP payload of an Ethernet frame, and whose it is (RFC 791, RFC 8200, RFC 9293).
fn payload(frame: &[u8]) -> Option<(Flow, &[u8])> {
    const TCP: u8 = 6;
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (from, to, segment): (IpAddr, IpAddr, &[u8]) = match kind {
        [0x08, 0x00] if *packet.get(9)? == TCP => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            // Ethernet pads short frames. Zero stands for what is longer than the field can say.
            let end = if total == 0 { packet.len() } else { total };
            let address =
                |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?.into(), address(16)?.into(), packet.get(header..end)?)
        }
        [0x86, 0xdd] if *packet.get(6)? == TCP => {
            let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
            let end = if length == 0 { packet.len() } else { 40 + length };
            let address =
                |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?.into(), address(24)?.into(), packet.get(40..end)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let flow = (SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?));
    Some((flow, segment.get(header..)?)).filter(|(_, payload)| !payload.is_empty())
}

/// A text of the characters `/` and `0 1 2 a c e i o s t` as HPACK writes it (RFC 7541, appendix B), but for its
/// last byte, which depends on what follows.
pub(crate) fn huffman(text: &str) -> Vec<u8> {
    // These ten have five bits, in this order.
    let code = |c: char| match "012aceiost".find(c) {
        Some(at) => (at as u32, 5),
        None if c == '/' => (0b01_1000, 6),
        None => panic!("`{c}` has a code of another length"),
    };
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for (value, width) in text.chars().map(code) {
        bits = bits << width | value;
        held += width;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}

#[test]
fn huffman_is_as_in_the_rfc() {
    // Lengths and codes from RFC 7541, appendix B: `a` 00011, `/` 011000, `t` 01001, `2` 00010.
    assert_eq!(huffman("/at2"), [0b0110_0000, 0b0110_1001]);
}
