//! gRPC on the wire: status codes, `grpc-timeout`, message framing. Pure.

pub(crate) mod messages;
pub(crate) mod status;
pub(crate) mod timeout;
