//! Every way in that loopback can show: HTTP/2 that is not gRPC, CONNECT, and bytes that pass as they are. What a
//! packet filter redirects is tested in network namespaces, in `cli/tests/netns`.

#[path = "../pair/mod.rs"]
mod pair;

mod beyond;
mod connect;
mod http;
mod http_failures;
#[allow(dead_code, reason = "grows")]
mod kit;
mod opaque;
mod strict;
mod tunnels;
mod web;
