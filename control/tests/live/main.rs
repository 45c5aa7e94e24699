//! The control plane's files change while it runs: every fault that a person or a volume can make.

mod ca_keys;
mod files;
mod folders;
mod identity;
mod keys;
mod kit;
mod pages;
mod settings;
mod start;
