//! HTTP/1.1 on the outbound listener: CONNECT, which is how gRPC libraries ask a proxy for a way (C-core, grpc-js and
//! Go send it where `grpc_proxy` or `https_proxy` is set), and a plain word for everything else.

use std::cell::RefCell;
use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use crate::io::Wire;
use crate::metrics::events::HandshakeFailure;
use crate::tables::hosts::Authority;

/// The longest head of a request that is read.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Where a CONNECT is to lead.
pub(crate) struct Asked {
    /// In lower case.
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
}

/// Why a request is turned away: what the client is told, and what is counted.
pub(crate) struct Denied {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) failure: HandshakeFailure,
}

/// Takes one request. `decide` says what a CONNECT leads to, before the client is told that it does; what it gave
/// comes back with the stream of bytes inside. The caller bounds the time.
pub(crate) async fn accept<T>(
    wire: Wire,
    decide: impl AsyncFn(&Asked) -> Result<T, Denied>,
) -> Result<(Wire, Asked, T), HandshakeFailure> {
    let granted = RefCell::new(None);
    let turned_away = RefCell::new(HandshakeFailure::Closed);
    let answer = service_fn(async |mut request: Request<Incoming>| {
        let decided = match asked(&request) {
            Ok(asked) => decide(&asked).await.map(|target| (asked, target)),
            Err(denied) => Err(denied),
        };
        Ok::<_, Infallible>(match decided {
            Ok((asked, target)) => {
                *granted.borrow_mut() = Some((hyper::upgrade::on(&mut request), asked, target));
                Response::new(Full::default())
            }
            Err(denied) => {
                *turned_away.borrow_mut() = denied.failure;
                refusal(&denied)
            }
        })
    });
    let served = http1::Builder::new()
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(wire), answer);
    let served = served.with_upgrades().await;
    let Some((upgrade, asked, target)) = granted.take() else {
        let malformed = served.is_err_and(|error| error.is_parse());
        return Err(if malformed { HandshakeFailure::Protocol } else { turned_away.into_inner() });
    };
    Ok((inside(upgrade).await?, asked, target))
}

/// Reads `host:port` of a CONNECT.
fn asked(request: &Request<Incoming>) -> Result<Asked, Denied> {
    if request.method() != Method::CONNECT {
        let text = "this is a sidecar for gRPC: of HTTP/1.1 it takes CONNECT alone; speak HTTP/2".to_owned();
        return Err(Denied {
            status: StatusCode::METHOD_NOT_ALLOWED,
            text,
            failure: HandshakeFailure::Protocol,
        });
    }
    let malformed = |text: &str| {
        let (status, text) = (StatusCode::BAD_REQUEST, text.to_owned());
        Err(Denied { status, text, failure: HandshakeFailure::Protocol })
    };
    // It would be taken out of what is meant for the tunnel.
    if !request.body().is_end_stream() {
        return malformed("a CONNECT has no body: neither content-length nor transfer-encoding");
    }
    let uri = request.uri();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    match Authority::parse(authority) {
        Authority { host, port: Some(port) }
            if port > 0 && !host.is_empty() && !host.contains('@') && uri.scheme().is_none() =>
        {
            Ok(Asked { host: host.into(), port })
        }
        _ => malformed("CONNECT takes host:port, such as payments.shop:50051"),
    }
}

fn refusal(denied: &Denied) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(format!("outrigger outbound: {}\n", denied.text).into()));
    *response.status_mut() = denied.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The stream of bytes after the answer, with what hyper had read of it already.
async fn inside(upgrade: OnUpgrade) -> Result<Wire, HandshakeFailure> {
    let upgraded: Upgraded = upgrade.await.map_err(|_| HandshakeFailure::Closed)?;
    let parts = upgraded.downcast::<TokioIo<Wire>>().map_err(|_| HandshakeFailure::Protocol)?;
    let mut wire = parts.io.into_inner();
    wire.unread(parts.read_buf);
    Ok(wire)
}
