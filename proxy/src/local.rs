//! One worker's view of a snapshot: its pools, its turns, its counters.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::balance::picker::Tried;
use crate::clock::Nanos;
use crate::context::Context;
use crate::metrics::calls::{Direction, Key, OTHER, Series};
use crate::metrics::events::Limit;
use crate::tables::{Cluster, Methods, Tables};
use crate::upstream::pool::Pool;

/// The longest method that gets a series of its own, in bytes.
const METHOD_BYTES_MAX: usize = 256;

/// What this worker holds beside the snapshot. Lives as long as a call uses it.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) tables: Arc<Tables>,
    /// One for each of [`Tables::endpoints`].
    pub(crate) pools: Vec<Rc<Pool>>,
    turns: Vec<Cell<u64>>,
    /// One for each service, for outbound calls.
    outbound: Vec<SeriesCache>,
    /// What is known of the methods of those that the mesh does not know.
    pub(crate) no_methods: Methods,
}

impl Local {
    /// The view of `tables`; pools of `before` whose endpoint, settings and certificates are the same are taken over.
    fn new(context: &Rc<Context>, tables: Arc<Tables>, before: &[Rc<Pool>]) -> Self {
        let known: FxHashMap<_, _> = before.iter().map(|pool| (Arc::as_ptr(&pool.endpoint), pool)).collect();
        let pools = tables
            .endpoints
            .iter()
            .map(|dial| match known.get(&Arc::as_ptr(&dial.endpoint)) {
                Some(pool) if pool.goes_on_for(dial) => (*pool).clone(),
                _ => Rc::new(Pool::new(context.clone(), dial)),
            })
            .collect();
        // Workers begin at different places, so that they do not all start with the same endpoint.
        let turns = tables.clusters.iter().map(|_| Cell::new(context.draw() >> 32)).collect();
        let outbound = tables
            .services
            .iter()
            .map(|service| SeriesCache::new(Direction::Outbound, service.name.clone(), "".into()))
            .collect();
        Self { tables, pools, turns, outbound, no_methods: Methods::default() }
    }

    /// A cluster of the snapshot, as attempts go there.
    pub(crate) fn target(&self, cluster: usize) -> Target<'_> {
        Target { cluster: &self.tables.clusters[cluster], pools: &self.pools, turn: &self.turns[cluster] }
    }

    /// The counters of outbound calls to a service.
    pub(crate) fn outbound(&self, service: usize) -> &SeriesCache {
        &self.outbound[service]
    }
}

/// Where the attempts of a call go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) pools: &'a [Rc<Pool>],
    /// This worker's turn among the members.
    pub(crate) turn: &'a Cell<u64>,
}

impl<'a> Target<'a> {
    /// Picks a member for an attempt; see [`crate::balance::picker::Picker::pick`].
    pub(crate) fn pick(&self, context: &Context, tried: &Tried, now: Nanos) -> Option<usize> {
        let cluster = self.cluster;
        let mut turn = self.turn.get();
        let mut random = context.random.borrow_mut();
        let picked = cluster.look(now, |view| {
            if view.is_some_and(|view| view.panic) {
                cluster.set.panic();
            }
            cluster.picker.pick(&cluster.members, view, tried, &mut turn, &mut random, now)
        });
        self.turn.set(turn);
        picked
    }

    /// This worker's connections to a member.
    pub(crate) fn pool(&self, member: usize) -> &'a Rc<Pool> {
        &self.pools[self.cluster.dials[member]]
    }
}

/// This worker's view of the newest snapshot, made when the snapshot changes.
#[derive(Debug)]
pub(crate) struct Locals {
    current: RefCell<Rc<Local>>,
    /// Pools that only calls of older snapshots use.
    retired: RefCell<Vec<Weak<Pool>>>,
    ended: Cell<bool>,
}

impl Locals {
    pub(crate) fn new(context: &Rc<Context>) -> Self {
        let tables = context.shared.tables.load_full();
        let current = RefCell::new(Rc::new(Local::new(context, tables, &[])));
        Self { current, retired: RefCell::default(), ended: Cell::new(false) }
    }

    /// The view that this worker has made last.
    pub(crate) fn newest(&self) -> Rc<Local> {
        self.current.borrow().clone()
    }

    /// Whether a view is that.
    pub(crate) fn is_newest(&self, local: &Local) -> bool {
        std::ptr::eq(&**self.current.borrow(), local)
    }

    /// The view that a call which begins now keeps to its end.
    pub(crate) fn current(&self, context: &Rc<Context>) -> Rc<Local> {
        let newest = context.shared.tables.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(&newest, &current.tables) {
            let next = Rc::new(Local::new(context, newest.clone(), &current.pools));
            self.part(&current, &next);
            self.look_at_proofs(&current, &next);
            *current = next;
        }
        current.clone()
    }

    /// Lets the connections go that the next view does not use: calls on them end, and then they close.
    fn part(&self, current: &Local, next: &Local) {
        let kept: FxHashSet<_> = next.pools.iter().map(Rc::as_ptr).collect();
        let mut retired = self.retired.borrow_mut();
        retired.retain(|pool| pool.strong_count() > 0);
        for pool in current.pools.iter().filter(|pool| !kept.contains(&Rc::as_ptr(pool))) {
            pool.retire();
            retired.push(Rc::downgrade(pool));
        }
        if self.ended.get() {
            next.pools.iter().for_each(|pool| pool.end());
        }
    }

    /// Has open connections looked at where the next view has other roots, also those that only calls of older views use.
    fn look_at_proofs(&self, current: &Local, next: &Local) {
        let Some(own) = &next.tables.credentials else { return };
        if current.tables.credentials.as_ref().is_some_and(|before| Arc::ptr_eq(before, own)) {
            return;
        }
        next.pools.iter().for_each(|pool| pool.look_at_proofs(own));
        self.retired.borrow().iter().filter_map(Weak::upgrade).for_each(|pool| pool.look_at_proofs(own));
    }

    /// Ends every call on any snapshot: the sidecar has no more time.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.current.borrow().pools.iter().for_each(|pool| pool.end());
        self.retired.borrow().iter().filter_map(Weak::upgrade).for_each(|pool| pool.end());
    }
}

/// The series of one direction, service and peer, found by method.
#[derive(Debug)]
pub(crate) struct SeriesCache {
    direction: Direction,
    service: Arc<str>,
    peer: Arc<str>,
    series: RefCell<FxHashMap<Box<str>, Arc<Series>>>,
    /// The cap on series was met: what is not known by then counts as `other`.
    is_full: Cell<bool>,
    other: RefCell<Option<Arc<Series>>>,
}

impl SeriesCache {
    pub(crate) fn new(direction: Direction, service: Arc<str>, peer: Arc<str>) -> Self {
        Self {
            direction,
            service,
            peer,
            series: RefCell::default(),
            is_full: Cell::new(false),
            other: RefCell::default(),
        }
    }

    /// The counters for `method`: one hash lookup, but for the first call.
    pub(crate) fn find(&self, context: &Context, methods: &Methods, method: &str) -> Arc<Series> {
        if let Some(series) = self.series.borrow().get(method) {
            return series.clone();
        }
        if self.is_full.get() {
            context.refuse(Limit::Series);
            return self.other(context);
        }
        let kind = methods.get(method).and_then(|method| method.kind);
        let label = if method.len() > METHOD_BYTES_MAX { OTHER } else { method };
        let kind = kind.map_or("unknown", |kind| kind.as_str());
        let (series, within_cap) = context.shared.calls.series(context.index, &self.key(kind, label));
        if !within_cap {
            context.refuse(Limit::Series);
            self.is_full.set(true);
        } else if label == method {
            self.series.borrow_mut().insert(method.into(), series.clone());
        }
        series
    }

    /// The counters for `method` if it has some or is declared in the mesh, else those of `other`: for calls
    /// that were refused.
    pub(crate) fn find_known(&self, context: &Context, methods: &Methods, method: &str) -> Arc<Series> {
        if self.series.borrow().contains_key(method) || methods.contains_key(method) {
            return self.find(context, methods, method);
        }
        self.other(context)
    }

    fn other(&self, context: &Context) -> Arc<Series> {
        let mut other = self.other.borrow_mut();
        other
            .get_or_insert_with(|| context.shared.calls.other(context.index, &self.key("unknown", OTHER)))
            .clone()
    }

    fn key(&self, kind: &'static str, method: &str) -> Key {
        Key {
            direction: self.direction,
            service: self.service.clone(),
            peer: self.peer.clone(),
            kind,
            method: method.into(),
        }
    }
}
