//! A sidecar whose mesh comes from a control plane: before the first mesh, out of the cache, on demand, and what is not
//! believed at once.

mod cache;
mod demand;
mod first;
mod grace;
mod kit;
mod lost;
mod plane;
mod register;
