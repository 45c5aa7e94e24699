//! The kinds of resources that make a mesh.

/// A kind of resource. The order is that in which a change is put in force without a gap: what is named before what names
/// it ("make before break", xDS protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Cluster`: how the endpoints of a service, or of some of its labels, are called.
    Cluster,
    /// `ClusterLoadAssignment`: where a cluster is.
    Endpoints,
    /// `Listener`: what a service is called, and how calls come in.
    Listener,
    /// `RouteConfiguration`: which cluster takes a call.
    Routes,
}

impl Kind {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes];

    /// The type URL, as requests and responses name the kind.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The kind of a type URL, if it is one of ours.
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_url_leads_back_to_its_kind() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::of("type.googleapis.com/envoy.service.secret.v3.Secret"), None);
    }
}
