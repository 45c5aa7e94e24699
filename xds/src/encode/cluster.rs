//! How the endpoints of a service are called: Cluster.

use config::model::Mesh;

use crate::audience::Audience;
use crate::resource::Resource;

/// The clusters of a service: all of its endpoints, and one for each set of labels that a route asks for.
pub(crate) fn clusters(_mesh: &Mesh, _index: usize, _audience: &Audience) -> Vec<Resource> {
    Vec::new()
}

/// What this audience cannot be told.
pub(crate) fn notes(_mesh: &Mesh, _index: usize, _audience: &Audience) -> Vec<String> {
    Vec::new()
}
