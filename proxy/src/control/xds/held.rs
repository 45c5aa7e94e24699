//! Resources that were found good, by kind and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message as _;
use xds::Kind;
use xds::decode::{EndpointsPart, Part};

/// What each resource costs besides what it says, its name among that: so that many small ones have a bound too.
const RESOURCE_WEIGHT: usize = 1_024;

/// One resource that was found good.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// As the control plane calls it; with state-of-the-world, that of the whole answer.
    pub(crate) version: Arc<str>,
    /// As it came, without the `Any` around it.
    pub(crate) bytes: Bytes,
    /// What it says.
    pub(crate) part: Part,
    /// What it names, and cannot be used without.
    pub(crate) needs: Vec<(Kind, String)>,
}

impl Accepted {
    /// Takes a resource that was read; its bytes are copied, since those that came hold a whole answer.
    pub(crate) fn new(version: Arc<str>, bytes: &[u8], part: Part) -> Self {
        let needs = part.needs();
        Self { version, bytes: Bytes::copy_from_slice(bytes), part, needs }
    }

    /// An assignment without endpoints, in the place of one that a control plane has taken away. It has no version.
    pub(crate) fn no_endpoints(cluster: &str) -> Self {
        let assignment =
            ClusterLoadAssignment { cluster_name: cluster.to_owned(), ..ClusterLoadAssignment::default() };
        let part = Part::Endpoints(EndpointsPart::default());
        Self::new("".into(), &assignment.encode_to_vec(), part)
    }

    /// About how much memory it takes: what it says takes more than the bytes that said it.
    pub(crate) fn weight(&self) -> usize {
        RESOURCE_WEIGHT + self.version.len() + 2 * self.bytes.len()
    }
}

/// The resources of one kind.
pub(crate) type OfKind = BTreeMap<Arc<str>, Arc<Accepted>>;

/// A set of resources. A copy shares all of them, and is cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held([Arc<OfKind>; Kind::ALL.len()]);

impl Held {
    /// Those of one kind.
    pub(crate) fn of(&self, kind: Kind) -> &OfKind {
        &self.0[place(kind)]
    }

    /// One of them.
    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Accepted>> {
        self.of(kind).get(name)
    }

    /// Whether there is one of this name.
    pub(crate) fn holds(&self, kind: Kind, name: &str) -> bool {
        self.of(kind).contains_key(name)
    }

    /// Adds one, or puts it in the place of another version.
    pub(crate) fn insert(&mut self, kind: Kind, name: &str, resource: Arc<Accepted>) {
        Arc::make_mut(&mut self.0[place(kind)]).insert(name.into(), resource);
    }

    /// Takes one away, if it is there.
    pub(crate) fn remove(&mut self, kind: Kind, name: &str) -> Option<Arc<Accepted>> {
        if !self.holds(kind, name) {
            return None;
        }
        Arc::make_mut(&mut self.0[place(kind)]).remove(name)
    }

    /// All of them, by kind and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Kind, &Arc<str>, &Arc<Accepted>)> {
        Kind::ALL.into_iter().flat_map(|kind| self.of(kind).iter().map(move |(name, one)| (kind, name, one)))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|of_kind| of_kind.len()).sum()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both hold the very same resources: not equal ones, but those that were accepted once.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let same = |(one, two): (&Arc<OfKind>, &Arc<OfKind>)| {
            let pairs = || one.iter().zip(two.iter());
            let equal = || pairs().all(|((a, one), (b, two))| a == b && Arc::ptr_eq(one, two));
            Arc::ptr_eq(one, two) || one.len() == two.len() && equal()
        };
        self.0.iter().zip(&other.0).all(same)
    }

    /// What they say, as [`xds::assemble`] takes it. It copies all of them: nothing for the control thread if they are
    /// many.
    pub(crate) fn parts(&self) -> BTreeMap<(Kind, String), Part> {
        self.iter().map(|(kind, name, one)| ((kind, name.to_string()), one.part.clone())).collect()
    }
}

fn place(kind: Kind) -> usize {
    kind as usize
}
