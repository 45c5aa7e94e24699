//! Reads a ClusterLoadAssignment.

use crate::decode::Own;
use crate::refusal::Refusal;

/// What a ClusterLoadAssignment says.
#[derive(Clone, Debug)]
pub struct EndpointsPart {
    /// Its name.
    pub name: String,
}

pub(crate) fn decode(name: &str, _bytes: &[u8], _own: &Own) -> Result<EndpointsPart, Refusal> {
    Ok(EndpointsPart { name: name.to_owned() })
}
