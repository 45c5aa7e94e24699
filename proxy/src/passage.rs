//! Calls to where no service of the mesh is: a redirected connection's original destination, for calls whose
//! `:authority` nobody in the mesh answers to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use config::model::Upstream;
use rustc_hash::FxHashMap;

use crate::context::Context;
use crate::endpoint::Endpoint;
use crate::local::{SeriesCache, Target};
use crate::metrics::calls::Direction;
use crate::tables::ledger::Subject;
use crate::tables::{Cluster, Dial};
use crate::upstream::pool::Pool;

/// The label `service` of such calls.
pub(crate) const PASSTHROUGH: &str = "passthrough";

/// Destinations that one worker keeps connections to; past it, those that no connection of the app needs are forgotten.
const PASSAGES_MAX: usize = 1_024;

/// One destination, spoken to by plain h2c and without our identity.
#[derive(Debug)]
pub(crate) struct Passage {
    cluster: Cluster,
    pools: [Rc<Pool>; 1],
    turn: Cell<u64>,
    pub(crate) series: SeriesCache,
}

impl Passage {
    fn new(context: &Rc<Context>, to: SocketAddr) -> Self {
        let endpoint = Arc::new(Endpoint::plain(to));
        let upstream = Upstream::default();
        let dial =
            Dial { endpoint: endpoint.clone(), tls: None, upstream, purse: None, health: None, host: None };
        let subject = Subject { service: PASSTHROUGH.into(), app: None, labels: BTreeMap::new() };
        let account = context.shared.tables.load().ledger.account(subject, context.shared.events.len());
        let pool = Pool::new(context.clone(), &dial);
        Self {
            cluster: Cluster::of_no_service(PASSTHROUGH, endpoint, account),
            pools: [Rc::new(pool)],
            turn: Cell::new(0),
            series: SeriesCache::new(Direction::Outbound, PASSTHROUGH.into(), "".into()),
        }
    }

    pub(crate) fn target(&self) -> Target<'_> {
        Target { cluster: &self.cluster, pools: &self.pools, turn: &self.turn }
    }
}

/// Those of one worker. They live beside the snapshots: no file says anything of them.
#[derive(Debug, Default)]
pub(crate) struct Passages {
    by_address: RefCell<FxHashMap<SocketAddr, Rc<Passage>>>,
}

impl Passages {
    /// The way to `to`, shared by all connections that lead there.
    pub(crate) fn find(&self, context: &Rc<Context>, to: SocketAddr) -> Rc<Passage> {
        let mut all = self.by_address.borrow_mut();
        if let Some(passage) = all.get(&to) {
            return passage.clone();
        }
        if all.len() >= PASSAGES_MAX {
            all.retain(|_, passage| Rc::strong_count(passage) > 1);
        }
        let passage = Rc::new(Passage::new(context, to));
        all.insert(to, passage.clone());
        passage
    }

    /// Ends every call on them.
    pub(crate) fn end(&self) {
        for passage in self.by_address.borrow().values() {
            passage.pools[0].end();
        }
    }
}
