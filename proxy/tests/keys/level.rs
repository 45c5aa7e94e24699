//! Where a policy block may stand, in a mesh that has a place for each.

use bench::server::Server;
use serde_json::json;

use crate::kit::{Site, service};

/// One of the places of a policy.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Level {
    Defaults,
    Service,
    Route,
    Method,
}

impl Level {
    /// The place of a policy key at this level, for [`crate::kit::Case::change`]; `path` is the method called.
    pub(crate) fn place(self, path: &str, key: &str) -> String {
        match self {
            Self::Defaults => format!("mesh defaults {key}"),
            Self::Service => format!("mesh services 0 {key}"),
            Self::Route => format!("mesh services 0 routes 0 {key}"),
            Self::Method => format!("mesh services 0 methods {} {key}", path.trim_start_matches('/')),
        }
    }

    /// The caller's sidecar of a mesh with `echo` on `server` and no policy anywhere but time to connect. There is a
    /// route only for its own level, so that the service's policies are seen without one too.
    pub(crate) fn base(self, server: &Server) -> Site {
        let mut echo = service("echo", &[server]);
        if self == Self::Route {
            echo["routes"] = json!([{"match": {"service": "bench.Echo"}}]);
        }
        Site::outbound(&[echo])
    }
}
