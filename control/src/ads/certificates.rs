//! `istio.v1.auth.IstioCertificateService`: a certificate for a request (CSR).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::time::timeout;

use crate::ads::admit::ending;
use crate::ads::counters::Limit;
use crate::ads::grpc::{Code, Ending, Messages, Unread, send};
use crate::ads::hub::Hub;
use crate::ads::limits::CSR_BYTES_MAX;
use crate::ads::wire::Response;
use crate::ca::authority::{Ask, Asker};
use crate::peer::Peer;

/// `IstioCertificateRequest`; what its `metadata` says means nothing to us.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CertificateRequest {
    /// PEM.
    #[prost(string, tag = "1")]
    pub(crate) csr: String,
    /// Seconds; 0: as long as may be.
    #[prost(int64, tag = "3")]
    pub(crate) validity_duration: i64,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CertificateResponse {
    /// PEM: the leaf first, its root last.
    #[prost(string, repeated, tag = "1")]
    pub(crate) cert_chain: Vec<String>,
}

/// Answers one request. `token`: what came with it.
pub(crate) async fn serve(
    hub: &Arc<Hub>,
    peer: &Peer,
    token: Option<&str>,
    body: RecvStream,
    out: &mut SendStream<Bytes>,
) -> Ending {
    let request = match timeout(hub.settings.first_words, read(hub, body)).await {
        Ok(Ok(request)) => request,
        Ok(Err(ending)) => return ending,
        Err(_) => {
            hub.counters().refuse(Limit::FirstWords);
            let limit = hub.settings.first_words;
            return Ending::new(Code::DeadlineExceeded, format!("no request within {limit:?}"));
        }
    };
    if peer.identity.is_none() && !peer.unproven {
        return Ending::new(
            Code::Unavailable,
            "tokens and certificates go by TLS only, and this listener is plaintext",
        );
    }
    let Some(ca) = hub.ca() else {
        return Ending::new(Code::Unavailable, "this control plane signs no certificates; give it a `ca`");
    };
    let asker = match (&peer.identity, token) {
        (Some(id), _) => Asker::Certificate { id, chain: &peer.chain, expires: peer.expires },
        (None, Some(token)) => Asker::Bearer(token),
        (None, None) => Asker::Nobody,
    };
    let life = u64::try_from(request.validity_duration).ok().filter(|seconds| *seconds > 0);
    let trust_domain = hub.trust_domain();
    let ask = Ask {
        asker,
        peer: peer.address,
        csr: &request.csr,
        life: life.map(Duration::from_secs),
        trust_domain: &trust_domain,
    };
    match ca.issue(ask, SystemTime::now()).await {
        Ok(cert_chain) => {
            let response = Response::message(&CertificateResponse { cert_chain });
            send(out, response).await.unwrap_or_else(|ending| ending)
        }
        Err(refusal) => ending(&refusal),
    }
}

async fn read(hub: &Hub, body: RecvStream) -> Result<CertificateRequest, Ending> {
    let mut requests = Messages::new(body, CSR_BYTES_MAX);
    let message = match poll_fn(|cx| requests.poll_next(cx)).await {
        Ok(Some(message)) => message,
        Ok(None) => return Err(Ending::new(Code::InvalidArgument, "there is no request")),
        Err(Unread::TooLarge(bytes)) => {
            hub.counters().refuse(Limit::Request);
            let what = format!("a request of {bytes} bytes, but at most {CSR_BYTES_MAX} are read");
            return Err(Ending::new(Code::ResourceExhausted, what));
        }
        Err(Unread::Wrong(why)) => return Err(Ending::new(Code::InvalidArgument, why)),
        Err(Unread::Gone) => return Err(Ending::gone()),
    };
    CertificateRequest::decode(message)
        .map_err(|error| Ending::new(Code::InvalidArgument, format!("not a request: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_istio_writes_it() {
        // protoc --encode istio.v1.auth.IstioCertificateRequest: csr "PEM", validity_duration 86400,
        // metadata {fields {key: "ClusterID" value {string_value: "k"}}}
        let golden = b"\x0a\x03PEM\x18\x80\xa3\x05\x22\x12\x0a\x10\x0a\x09ClusterID\x12\x03\x1a\x01k";
        let request = CertificateRequest::decode(&golden[..]).unwrap();
        assert_eq!(request, CertificateRequest { csr: "PEM".to_owned(), validity_duration: 86_400 });
    }

    #[test]
    fn a_response_is_written_as_istio_reads_it() {
        let response = CertificateResponse { cert_chain: vec!["leaf".to_owned(), "root".to_owned()] };
        assert_eq!(response.encode_to_vec(), b"\x0a\x04leaf\x0a\x04root");
    }
}
