//! A server that speaks first, as those of MySQL and SMTP do.

use std::io;
use std::net::SocketAddr;

use bench::wait::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::cluster::Pod;
use crate::door::connect;

/// What it says before it is asked.
const GREETING: &[u8] = b"220 at your service\r\n";

/// Greets whoever connects, then sends back what it is sent; ends with the test.
pub(crate) fn open(pod: &Pod, at: &str) {
    let listener = pod.namespace.within(|| {
        let listener = std::net::TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
        listener.set_nonblocking(true).expect("a socket of our own");
        TcpListener::from_std(listener).expect("a listener")
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(GREETING).await?;
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await?;
                Ok::<_, io::Error>(())
            });
        }
    });
}

/// Waits for the greeting before it says a word, and hears it again.
pub(crate) async fn listen_and_speak(pod: &Pod, to: SocketAddr) -> io::Result<()> {
    let talk = async {
        let mut stream = connect(pod, 0, to).await?;
        let mut heard = vec![0; GREETING.len()];
        stream.read_exact(&mut heard).await?;
        assert_eq!(heard, GREETING);
        stream.write_all(b"QUIT\r\n").await?;
        stream.shutdown().await?;
        heard.clear();
        stream.read_to_end(&mut heard).await?;
        assert_eq!(heard, b"QUIT\r\n");
        Ok(())
    };
    soon(format!("a talk with {to}"), talk).await
}
