//! Every way in that loopback can show: HTTP/2 that is not gRPC, CONNECT, and bytes that pass as they are. What a
//! packet filter redirects is tested in network namespaces, in `cli/tests/netns`.

#[allow(dead_code, reason = "bad_input uses the rest of it")]
#[path = "../bad_input/neighbour.rs"]
mod neighbour;
#[path = "../pair/mod.rs"]
mod pair;

mod beyond;
mod connect;
mod http;
mod http_failures;
mod kit;
mod opaque;
mod strangers;
mod strict;
mod tunnels;
mod web;
