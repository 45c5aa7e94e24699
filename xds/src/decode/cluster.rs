//! Reads a Cluster.

use crate::decode::Own;
use crate::refusal::Refusal;

/// What a Cluster says.
#[derive(Clone, Debug)]
pub struct ClusterPart {
    /// Its name.
    pub name: String,
}

impl ClusterPart {
    /// The name of its ClusterLoadAssignment.
    pub(crate) fn endpoints(&self) -> Option<&str> {
        Some(&self.name)
    }
}

pub(crate) fn decode(name: &str, _bytes: &[u8], _own: &Own) -> Result<ClusterPart, Refusal> {
    Ok(ClusterPart { name: name.to_owned() })
}
