//! A name server for tests: says what it is told to, by UDP and TCP, and remembers what it was asked.
//!
//! Written by hand, so that what is asked of a resolver cannot share a fault with what answers it (RFC 1035).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

/// Longer answers are cut short over UDP, as without EDNS.
const UDP_BYTES_MAX: usize = 512;
/// A free port for both protocols is looked for this many times.
const PORTS_TRIED_MAX: usize = 20;

const A: u16 = 1;
const AAAA: u16 = 28;

/// What is said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, each with this TTL in seconds; of the kind that is asked for.
    Addresses(Vec<IpAddr>, u32),
    /// NOERROR without a record.
    Empty,
    /// This code: 2 is SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    Code(u8),
    /// Nothing at all.
    Silence,
}

/// A running name server; it ends when it is dropped.
pub struct NameServer {
    /// Where it listens, by UDP and by TCP.
    pub addr: SocketAddr,
    zone: Arc<Zone>,
    tasks: Vec<AbortHandle>,
}

#[derive(Default)]
struct Zone {
    names: Mutex<BTreeMap<String, Answer>>,
    asked: Mutex<Vec<Question>>,
}

/// A question that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// In lower case, without the dot at its end.
    pub name: String,
    /// Whether for IPv6 addresses.
    pub ipv6: bool,
    /// Whether over TCP.
    pub tcp: bool,
}

impl NameServer {
    /// Listens on any port of the loopback interface; every name is NXDOMAIN until [`NameServer::set`].
    ///
    /// # Errors
    /// When no port is free for both protocols.
    pub async fn start() -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// As [`NameServer::start`], at this address; port 0 is any port.
    ///
    /// # Errors
    /// When the port, or any that was tried, is not free for both protocols.
    pub async fn start_at(at: SocketAddr) -> io::Result<Self> {
        let zone = Arc::new(Zone::default());
        for _ in 0..PORTS_TRIED_MAX {
            let tcp = TcpListener::bind(at).await?;
            let addr = tcp.local_addr()?;
            let Ok(udp) = UdpSocket::bind(addr).await else { continue };
            let tasks = vec![
                tokio::spawn(datagrams(udp, zone.clone())).abort_handle(),
                tokio::spawn(streams(tcp, zone.clone())).abort_handle(),
            ];
            return Ok(Self { addr, zone, tasks });
        }
        Err(io::Error::other("no port that is free for UDP and TCP"))
    }

    /// Says `answer` of `name` from now on.
    ///
    /// # Panics
    /// When a task of the server has.
    pub fn set(&self, name: &str, answer: Answer) {
        self.zone.names.lock().expect("nobody panics with it held").insert(name.to_owned(), answer);
    }

    /// Says these addresses of `name` from now on, with this TTL in seconds.
    pub fn point(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.set(name, Answer::Addresses(addresses.to_vec(), ttl));
    }

    /// Every question so far.
    ///
    /// # Panics
    /// When a task of the server has.
    pub fn asked(&self) -> Vec<Question> {
        self.zone.asked.lock().expect("nobody panics with it held").clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn datagrams(udp: UdpSocket, zone: Arc<Zone>) {
    let mut query = [0; 4_096];
    loop {
        let Ok((length, from)) = udp.recv_from(&mut query).await else { continue };
        if let Some(answer) = zone.answer(&query[..length], false) {
            let _ = udp.send_to(&answer, from).await;
        }
    }
}

async fn streams(tcp: TcpListener, zone: Arc<Zone>) {
    loop {
        let Ok((stream, _)) = tcp.accept().await else { continue };
        tokio::spawn(stream_of(stream, zone.clone()));
    }
}

/// Each message has its length before it (RFC 1035, 4.2.2).
async fn stream_of(mut stream: TcpStream, zone: Arc<Zone>) -> io::Result<()> {
    loop {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        if let Some(answer) = zone.answer(&query, true) {
            stream.write_u16(u16::try_from(answer.len()).map_err(io::Error::other)?).await?;
            stream.write_all(&answer).await?;
        }
    }
}

impl Zone {
    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let (name, end) = name(query)?;
        let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().ok()?);
        let question = query.get(12..end + 4)?;
        let asked = Question { name: name.clone(), ipv6: kind == AAAA, tcp };
        self.asked.lock().expect("nobody panics with it held").push(asked);
        let said = self.names.lock().expect("nobody panics with it held").get(&name).cloned();
        let (code, records, ttl) = match said.unwrap_or(Answer::Code(3)) {
            Answer::Addresses(addresses, ttl) => {
                let of_kind = |address: &IpAddr| match kind {
                    A => address.is_ipv4(),
                    AAAA => address.is_ipv6(),
                    _ => false,
                };
                (0, addresses.into_iter().filter(of_kind).collect(), ttl)
            }
            Answer::Empty => (0, Vec::new(), 0),
            Answer::Code(code) => (code, Vec::new(), 0),
            Answer::Silence => return None,
        };
        let whole = message(query, question, code, &records, ttl, false);
        if !tcp && whole.len() > UDP_BYTES_MAX {
            return Some(message(query, question, code, &[], ttl, true));
        }
        Some(whole)
    }
}

/// The name of the question, and where it ends.
fn name(query: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
}

fn message(
    query: &[u8],
    question: &[u8],
    code: u8,
    records: &[IpAddr],
    ttl: u32,
    truncated: bool,
) -> Vec<u8> {
    let mut out = query[..2].to_vec();
    // A response (QR), that is authoritative (AA), and perhaps cut short (TC); recursion desired as asked.
    out.push(0x84 | u8::from(truncated) << 1 | query[2] & 1);
    out.push(0x80 | code);
    for count in [1, records.len() as u16, 0, 0] {
        out.extend(count.to_be_bytes());
    }
    out.extend(question);
    for record in records {
        // The name of the question, by a pointer to it (RFC 1035, 4.1.4).
        out.extend([0xc0, 12]);
        let (kind, data) = match record {
            IpAddr::V4(address) => (A, address.octets().to_vec()),
            IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
        };
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}
