//! A call that somebody asks about, and what the answer can draw on.

use config::model::Mesh;
use config::spiffe::SpiffeId;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::call::head::names_grpc;
use crate::clock::Nanos;
use crate::tables::authorize::Authorization;

/// A call that somebody asks about.
#[derive(Clone, Debug)]
pub struct Call {
    pub(crate) authority: String,
    /// `package.Service/Method`.
    pub(crate) method: String,
    pub(crate) headers: HeaderMap,
    /// Who makes it, where that is not who the answer is for.
    pub(crate) caller: Option<SpiffeId>,
}

impl Call {
    /// A call of `method` (`package.Service/Method`, with or without a slash in front) to `authority` (`HOST` or
    /// `HOST:PORT`), with these headers.
    ///
    /// # Errors
    /// Where no call could say such a thing: what, and what would be right.
    pub fn new(authority: &str, method: &str, headers: &[(String, String)]) -> Result<Self, String> {
        if authority.is_empty() || authority.parse::<Authority>().is_err() {
            return Err(format!("authority {authority:?} is not HOST or HOST:PORT"));
        }
        let path = format!("/{}", method.strip_prefix('/').unwrap_or(method));
        let path: PathAndQuery =
            path.parse().map_err(|_| format!("method {method:?} is not package.Service/Method"))?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let wrong = |what| format!("header {name:?}: {what}");
            let key = HeaderName::try_from(name).map_err(|_| wrong("not the name of a header"))?;
            let text =
                HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong("not the value of one"))?;
            map.try_append(key, text).map_err(|_| wrong("there are too many headers"))?;
        }
        let method = path.path().strip_prefix('/').unwrap_or_default().to_owned();
        Ok(Self { authority: authority.to_owned(), method, headers: map, caller: None })
    }

    /// The same call, made by who proves this SPIFFE id.
    ///
    /// # Errors
    /// When it is no SPIFFE id.
    pub fn by(self, caller: &str) -> Result<Self, String> {
        let id = SpiffeId::parse(caller).map_err(|why| format!("caller {caller:?}: {why}"))?;
        Ok(Self { caller: Some(id), ..self })
    }

    /// Whether it is a call of gRPC, as it is unless its `content-type` says otherwise.
    pub(crate) fn is_grpc(&self) -> bool {
        self.headers.get(CONTENT_TYPE).is_none_or(names_grpc)
    }

    /// As the answer begins.
    pub(crate) fn told(&self) -> Value {
        let headers: Vec<Value> = self
            .headers
            .iter()
            .map(|(name, value)| json!({"name": name.as_str(), "value": text(value)}))
            .collect();
        json!({"authority": self.authority, "method": self.method, "headers": headers})
    }
}

/// A header's value, as people read it.
pub(crate) fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Besides the tables, what is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known<'a> {
    /// How the endpoints fare, at this moment: in a running sidecar.
    Live(Nanos),
    /// The whole mesh, with what the services ask of their callers, and nothing of how it fares.
    Mesh {
        mesh: &'a Mesh,
        /// The place of each service, by `NAME.NAMESPACE`.
        places: &'a FxHashMap<String, usize>,
        /// For each service; `None`: not known.
        authorization: &'a [Option<Authorization>],
        /// Who calls, unless the call says so.
        caller: Option<&'a SpiffeId>,
    },
}
