//! Who may call what, by a real sidecar over mTLS: what each rule does, and what a change does to calls that are under way.

mod kit;
mod rules;
mod shut;
mod streams;
mod trust;
