//! Where a service is: ClusterLoadAssignment.

use config::model::Mesh;

use crate::audience::Audience;
use crate::resource::Resource;

/// Where the clusters of a service are.
pub(crate) fn assignments(_mesh: &Mesh, _index: usize, _audience: &Audience) -> Vec<Resource> {
    Vec::new()
}
