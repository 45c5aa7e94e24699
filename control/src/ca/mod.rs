//! The authority that signs certificates of the mesh.
//!
//! Imports go down this list only, or stay within a line.
//!
//! ```text
//! make              what `outrigger certs` makes: roots and join tokens
//! show              what `/ca` shows
//! keeper            follows the folder, and the time
//! authority         who gets a certificate
//! vouch, used       who vouches for whoever has none yet; tokens that are used up
//! audit, rate       a line for each request; how many there may be
//! force             what is in force of the folder at one moment
//! seen              what came while we looked on, and when
//! folder            roots, their keys and the key of tokens, on disk
//! token, csr, sign  who may ask, what is asked for, and the answer
//! root              a certificate that is trusted, and may sign
//! standing          which root signs, which are trusted, until when (pure)
//! counters          what is counted
//! reason, random    why somebody is refused; bytes that nobody can guess
//! ```

pub mod make;
pub mod reason;
pub mod standing;

pub(crate) mod authority;
pub(crate) mod counters;
pub(crate) mod force;
pub(crate) mod keeper;
pub(crate) mod root;
pub(crate) mod show;
pub(crate) mod vouch;

mod audit;
mod csr;
mod folder;
mod random;
mod rate;
mod seen;
mod sign;
mod token;
mod used;
