//! A browser and a web app, both of HTTP/2 without gRPC.

use std::net::SocketAddr;

use bench::flow;
use bench::wait::soon;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::response::Builder;
use http::{HeaderMap, Method, Request, Response};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::kit::noise;
use crate::pair::peer::{self, Peer};

/// The body of `/big`.
pub(crate) const BIG: usize = 300_000;

/// A connection of a client.
pub(crate) struct Web {
    send: SendRequest<Bytes>,
    task: AbortHandle,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// What ended it, if not END_STREAM.
    pub(crate) fault: Option<h2::Error>,
}

impl Web {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.expect("a connection")).await
    }

    /// One on a connection that is there already.
    pub(crate) async fn over(tcp: TcpStream) -> Self {
        let (send, connection) = h2::client::Builder::new()
            .initial_connection_window_size(16 << 20)
            .handshake(tcp)
            .await
            .expect("a greeting");
        let task = tokio::spawn(async { drop(connection.await) });
        Self { send, task: task.abort_handle() }
    }

    /// Begins a request.
    pub(crate) async fn begin(&self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.expect("an open connection");
        send.send_request(request, end).expect("a request")
    }

    /// A request without a body.
    pub(crate) async fn ask(&self, request: Request<()>) -> Answer {
        let (response, _stream) = self.begin(request, true).await;
        answer(response).await
    }

    /// `GET path` of a host.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        self.ask(request(Method::GET, host, path)).await
    }

    /// `POST path` of a host.
    pub(crate) async fn post(&self, host: &str, path: &str, body: &[u8]) -> Answer {
        let (response, mut stream) = self.begin(request(Method::POST, host, path), false).await;
        // Whoever answers early need not read all of it.
        let send = flow::send_all(&mut stream, Bytes::copy_from_slice(body), true);
        tokio::join!(answer(response), send).0
    }
}

/// A request's head.
pub(crate) fn request(method: Method, host: &str, path: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("http://{host}{path}"));
    request.header("x-asked", "yes").body(()).expect("a request")
}

/// The whole of an answer. A request that is reset before its answer begins has the status 0.
pub(crate) async fn answer(response: ResponseFuture) -> Answer {
    let mut answer =
        Answer { status: 0, headers: HeaderMap::new(), body: Vec::new(), trailers: None, fault: None };
    match soon("a response", response).await {
        Err(fault) => answer.fault = Some(fault),
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            (answer.status, answer.headers) = (head.status.as_u16(), head.headers);
            loop {
                match soon("the rest of a response", body.data()).await {
                    Some(Ok(data)) => {
                        let _ = body.flow_control().release_capacity(data.len());
                        answer.body.extend_from_slice(&data);
                    }
                    Some(Err(fault)) => {
                        answer.fault = Some(fault);
                        return answer;
                    }
                    None => break,
                }
            }
            match soon("trailers, or none", body.trailers()).await {
                Ok(trailers) => answer.trailers = trailers,
                Err(fault) => answer.fault = Some(fault),
            }
        }
    }
    answer
}

impl Answer {
    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Fails unless a sidecar has ended the request so: with this status and one line of text.
    #[track_caller]
    pub(crate) fn assert_failed(&self, status: u16, text: &str) {
        let said = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{said}: {self:?}");
        assert!(said.starts_with(text) && said.ends_with('\n') && said.lines().count() == 1, "{said}");
        assert!(self.fault.is_none() && self.trailers.is_none(), "{self:?}");
        assert_eq!(self.header("content-type"), "text/plain; charset=utf-8");
        assert!(!self.headers.contains_key("grpc-status"), "{self:?}");
    }
}

/// An app that answers by its paths.
pub(crate) async fn app() -> Peer {
    peer::app(None, serve).await
}

async fn serve(mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let head = Response::builder()
        .header("x-method", request.method().as_str())
        .header("x-path", request.uri().path_and_query().map_or("", |path| path.as_str()))
        .header("x-authority", request.uri().authority().map_or("", |authority| authority.as_str()))
        .header("x-was-asked", request.headers().get("x-asked").map_or("", |_| "yes"));
    let say = |head: Builder, length: usize| head.header("content-length", length);
    let whole = |head: Builder| head.body(()).expect("a head");
    // Whoever asked may be gone by now.
    let _ = match request.uri().path() {
        "/big" if request.method() == Method::HEAD => {
            respond.send_response(whole(say(head, BIG)), true).map(drop)
        }
        "/big" => send(&mut respond, whole(say(head, BIG)), noise(BIG, 7)).await,
        "/204" => respond.send_response(whole(head.status(204)), true).map(drop),
        "/404" => respond.send_response(whole(head.status(404)), true).map(drop),
        "/trailers" => trailers(&mut respond, whole(head)),
        "/stream" => stream(&mut request, &mut respond, whole(head)).await,
        "/short" => send(&mut respond, whole(say(head, 10)), vec![1; 5]).await,
        "/long" => send(&mut respond, whole(say(head, 3)), vec![1; 5]).await,
        "/hang" => std::future::pending().await,
        "/reset" => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
        "/reset-later" => reset_later(&mut respond, whole(head)).await,
        "/refused" => {
            respond.send_reset(Reason::REFUSED_STREAM);
            Ok(())
        }
        _ => {
            let body = peer::drain(request.body_mut()).await;
            send(&mut respond, whole(say(head, body.len())), body).await
        }
    };
}

async fn send(respond: &mut SendResponse<Bytes>, head: Response<()>, body: Vec<u8>) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(head, false)?;
    flow::send_all(&mut stream, body.into(), true).await
}

fn trailers(respond: &mut SendResponse<Bytes>, head: Response<()>) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(head, false)?;
    stream.send_data("body".into(), false)?;
    stream.send_trailers(peer::headers(&[("x-sum", "1"), ("x-sum", "2")]))
}

/// A head at once, and every piece of the request as it comes.
async fn stream(
    request: &mut Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    head: Response<()>,
) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(head, false)?;
    while let Some(data) = request.body_mut().data().await {
        let data = data?;
        let _ = request.body_mut().flow_control().release_capacity(data.len());
        flow::send_all(&mut stream, data, false).await?;
    }
    stream.send_data(Bytes::new(), true)
}

/// A head and some of a body, which a client must have seen before the end of it all.
async fn reset_later(respond: &mut SendResponse<Bytes>, head: Response<()>) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(head, false)?;
    flow::send_all(&mut stream, Bytes::from_static(b"some"), false).await?;
    tokio::time::sleep(RESET_LATER).await;
    stream.send_reset(Reason::INTERNAL_ERROR);
    Ok(())
}

/// Gives the head its way: h2 drops what is not sent yet of a stream that is reset.
const RESET_LATER: std::time::Duration = std::time::Duration::from_secs(1);
