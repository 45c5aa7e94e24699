//! A data-plane thread: one single-threaded runtime, the connections on it, and their calls.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};

use crate::call::origin::Command;
use crate::context::{Context, Shared};
use crate::downstream::connection::serve;
use crate::downstream::hall::{Door, Hall};
use crate::downstream::judged::Judged;
use crate::downstream::roster::Roster;
use crate::local::Locals;
use crate::metrics::calls::Direction;
use crate::metrics::events::Limit;
use crate::passage::Passages;

/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How far the sidecar is on its way out; each phase includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Inbound listeners are closed, inbound connections say GOAWAY.
    InboundDraining,
    /// Outbound too.
    Draining,
    /// Calls in flight are ended.
    Ending,
    /// Everything is closed.
    Closed,
}

/// A listener that is bound and what it lets in.
pub(crate) struct Listener {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) door: Door,
}

/// A socket on its way to the worker that serves it.
struct Arrival {
    tcp: std::net::TcpStream,
    door: Door,
}

/// The workers' mailboxes and how many connections each has.
#[derive(Clone)]
struct Offices {
    desks: Arc<[Desk]>,
}

struct Desk {
    arrivals: mpsc::UnboundedSender<Arrival>,
    /// By direction.
    connections: [AtomicUsize; 2],
}

impl Offices {
    /// A connection of the worker `index` is gone.
    fn leave(&self, index: usize, door: &Door) {
        self.desks[index].connections[door.direction() as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    fn load(&self) -> usize {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Starts the workers; worker 0 accepts for all. Each ends when the phase is [`Phase::Closed`].
pub(crate) fn start(
    shared: &Arc<Shared>,
    listeners: Vec<Listener>,
    phase: &watch::Receiver<Phase>,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let (desks, mailboxes): (Vec<_>, Vec<_>) = (0..shared.events.len())
        .map(|_| {
            #[expect(clippy::disallowed_methods, reason = "bounded by the limit on connections: see `admit`")]
            let (arrivals, mailbox) = mpsc::unbounded_channel();
            (Desk { arrivals, connections: Default::default() }, mailbox)
        })
        .unzip();
    let offices = Offices { desks: desks.into() };
    let mut listeners = Some(listeners);
    let mut threads = Vec::new();
    for (index, mailbox) in mailboxes.into_iter().enumerate() {
        let (shared, offices, phase) = (shared.clone(), offices.clone(), phase.clone());
        let listeners = listeners.take().unwrap_or_default();
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(work(index, shared, offices, listeners, mailbox, phase)),
                Err(error) => {
                    eprintln!("outrigger-proxy: worker {index} cannot start: {error}");
                    std::process::exit(1);
                }
            }
        })?);
    }
    Ok(threads)
}

/// A worker's life.
async fn work(
    index: usize,
    shared: Arc<Shared>,
    offices: Offices,
    listeners: Vec<Listener>,
    mut mailbox: mpsc::UnboundedReceiver<Arrival>,
    mut phase: watch::Receiver<Phase>,
) {
    // Before the first look, so that no snapshot is missed.
    let mut published = shared.published.subscribe();
    let context = Rc::new(Context::new(index, shared));
    let locals = Rc::new(Locals::new(&context));
    let hall = Rc::new(Hall {
        context,
        locals,
        passages: Passages::default(),
        lobbies: Default::default(),
        roster: Roster::default(),
    });
    for listener in listeners {
        tokio::task::spawn_local(accept(hall.clone(), offices.clone(), listener, phase.clone()));
    }
    let reached = Cell::new(Phase::Serving);
    let mut judged = Judged::default();
    judged.differs(&hall.locals.newest().tables);
    loop {
        tokio::select! {
            Some(arrival) = mailbox.recv() => {
                match TcpStream::from_std(arrival.tcp) {
                    Ok(tcp) => welcome(&hall, &offices, arrival.door, tcp),
                    Err(_) => offices.leave(index, &arrival.door),
                }
            }
            Ok(()) = published.changed() => {
                let local = hall.locals.current(&hall.context);
                if let Some(change) = judged.differs(&local.tables) {
                    hall.roster.recheck(change);
                }
            }
            Ok(()) = phase.changed() => {
                let now = *phase.borrow_and_update();
                follow(&hall, reached.replace(now), now);
                if now == Phase::Closed {
                    return;
                }
            }
            else => return,
        }
    }
}

/// Does what the phases from `before` (exclusive) to `now` ask for.
fn follow(hall: &Hall, before: Phase, now: Phase) {
    let entered = |phase| before < phase && phase <= now;
    if entered(Phase::InboundDraining) {
        hall.roster.ask(Direction::Inbound, Command::Drain);
    }
    if entered(Phase::Draining) {
        hall.roster.ask(Direction::Outbound, Command::Drain);
    }
    if entered(Phase::Ending) {
        hall.roster.ask(Direction::Inbound, Command::End);
        hall.roster.ask(Direction::Outbound, Command::End);
        hall.locals.end();
        hall.passages.end();
    }
    if entered(Phase::Closed) {
        hall.roster.ask(Direction::Inbound, Command::Close);
        hall.roster.ask(Direction::Outbound, Command::Close);
    }
}

/// Accepts until the listener's direction drains, and hands each socket to the worker with the fewest
/// connections.
async fn accept(hall: Rc<Hall>, offices: Offices, listener: Listener, mut phase: watch::Receiver<Phase>) {
    let Listener { socket, door } = listener;
    let Ok(socket) = TcpListener::from_std(socket) else { return };
    let last = match door.direction() {
        Direction::Inbound => Phase::InboundDraining,
        Direction::Outbound => Phase::Draining,
    };
    let mut over = std::pin::pin!(phase.wait_for(|phase| *phase >= last));
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            _ = &mut over => return,
        };
        match accepted {
            Ok((tcp, _)) => admit(&hall, &offices, door.clone(), tcp),
            // The descriptors are used up, or the connection was gone before it was ours.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn admit(hall: &Rc<Hall>, offices: &Offices, door: Door, tcp: TcpStream) {
    let limit = hall.context.shared.limits.connections;
    // Inbound and outbound are counted apart: the mesh must not keep the app from calling out.
    let direction = door.direction() as usize;
    let open = |desk: &Desk| desk.connections[direction].load(Ordering::Relaxed);
    if offices.desks.iter().map(open).sum::<usize>() >= limit {
        return hall.context.refuse(Limit::Connections);
    }
    let Some((index, desk)) = offices.desks.iter().enumerate().min_by_key(|(_, desk)| desk.load()) else {
        return;
    };
    desk.connections[direction].fetch_add(1, Ordering::Relaxed);
    if index == hall.context.index {
        return welcome(hall, offices, door, tcp);
    }
    let sent = tcp.into_std().map(|tcp| desk.arrivals.send(Arrival { tcp, door }));
    if !matches!(sent, Ok(Ok(()))) {
        desk.connections[direction].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a connection on this worker.
fn welcome(hall: &Rc<Hall>, offices: &Offices, door: Door, tcp: TcpStream) {
    let (hall, offices) = (hall.clone(), offices.clone());
    tokio::task::spawn_local(async move {
        let index = hall.context.index;
        serve(hall, door.clone(), tcp).await;
        offices.leave(index, &door);
    });
}
