//! The Unix socket for what changes state: only who may open the file may drain the sidecar.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::model::Sidecar;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::drain::Ask;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The longest command.
const COMMAND_BYTES_MAX: usize = 16;

/// Where the socket of a sidecar is: `admin.socket`, or a name made of service and namespace in the
/// temporary folder.
pub(crate) fn path(sidecar: &Sidecar) -> PathBuf {
    sidecar.admin.socket.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("outrigger-{}.{}.sock", sidecar.service, sidecar.namespace))
    })
}

/// Binds the socket; a file left behind by a sidecar that is gone is replaced.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match StdUnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another sidecar listens there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Nobody listens. A file that was put there for something else must not be lost.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "a file that is no socket is there",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes commands for as long as the process lives; one who connects and says nothing holds up nobody.
pub(crate) async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    open.spawn(timeout(PATIENCE, take(stream, asks.clone())));
                }
                // No descriptor is left, for now.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn take(mut stream: UnixStream, asks: mpsc::Sender<Ask>) -> io::Result<()> {
    let mut command = Vec::new();
    (&mut stream).take(COMMAND_BYTES_MAX as u64).read_to_end(&mut command).await?;
    let answer: &[u8] = if command == b"drain" {
        // A full queue means that a drain is under way already.
        let _ = asks.try_send(Ask::Drain);
        b"draining\n"
    } else {
        b"the only command is drain\n"
    };
    stream.write_all(answer).await
}

/// Asks a running sidecar to drain; returns what it answered.
pub(crate) fn ask_drain(path: &Path) -> io::Result<String> {
    let mut stream = StdUnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"drain")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
