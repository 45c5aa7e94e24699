//! Serving until told to stop, then finishing what is open.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::stop::Stop;

/// How long calls may go on after the stop before the app ends without them.
pub const FINISH_WAIT: Duration = Duration::from_secs(10);

/// Serves `routes` until `stop`, then takes no new connection and no new call and lets open ones finish.
///
/// # Errors
/// When the listener fails, or when calls were still open [`FINISH_WAIT`] after the stop.
pub async fn serve(listener: TcpListener, routes: Routes, stop: Stop) -> io::Result<()> {
    let incoming = TcpListenerStream::new(listener).map(|accepted| {
        let socket = accepted?;
        socket.set_nodelay(true)?;
        Ok::<_, io::Error>(socket)
    });
    let shutdown = stop.clone();
    let serving = Server::builder()
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { shutdown.requested().await });
    let overdue = async {
        stop.requested().await;
        tokio::time::sleep(FINISH_WAIT).await;
    };
    tokio::select! {
        ended = serving => ended.map_err(io::Error::other),
        () = overdue => Err(io::Error::other(format!("calls were still open {FINISH_WAIT:?} after the stop"))),
    }
}
