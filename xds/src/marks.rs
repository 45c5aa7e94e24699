//! The names by which what is ours is known in clusters and endpoints, to those who write it and to those who read it.

/// Labels of an endpoint, where Envoy's subsets look for them.
pub(crate) const LABELS: &str = "envoy.lb";

/// What is ours, and what nobody else reads.
pub(crate) const OURS: &str = "outrigger";

/// How an endpoint is spoken to, where the sidecar is not to decide by itself.
pub(crate) const TLS: &str = "tls";
/// Mesh TLS.
pub(crate) const TLS_MESH: &str = "mesh";
/// Plain text.
pub(crate) const TLS_NONE: &str = "none";

/// The type of what stands beside a cluster of ours.
pub(crate) const CLUSTER: &str = "Cluster";

/// The type of what stands beside a cluster of some labels.
pub(crate) const SUBSET: &str = "Subset";

/// Our own policy of balancing, for which Envoy has no word.
pub(crate) const PEAK_EWMA: &str = "PeakEwma";

/// Envoy's policy with what it does not have there: a slow start.
pub(crate) const RANDOM: &str = "Random";

/// The most of Envoy's limits on connections and requests. It has 1,024 where nothing is said; ours has none.
pub(crate) const NO_LIMIT: u32 = u32::MAX;
