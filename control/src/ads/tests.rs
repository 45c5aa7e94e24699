//! Each rule of a stream, without a socket and with the time in hand: the client, and the rules by idea.

mod answers;
mod client;
mod delta;
mod limits;
mod order;
mod sotw;
mod wildcard;
