//! Spans by OTLP/gRPC, from the control thread.

pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod exporter;
pub(crate) mod proto;
pub(crate) mod settings;
pub(crate) mod trust;

#[cfg(test)]
mod sent;
#[cfg(test)]
mod tests;
