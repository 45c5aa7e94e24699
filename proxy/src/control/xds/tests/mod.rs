//! The client against a scripted control plane, over real sockets.

mod ends;
mod kit;
mod proof;
mod sets;
