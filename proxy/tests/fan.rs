//! A request that goes to several endpoints at once comes to each of them byte by byte as it was sent, however it is cut and
//! whoever is fast, and goes on with the one that answers.

#[path = "pair/mod.rs"]
mod pair;

use bench::call::CallSpec;
use bench::client::Client;
use bench::outcome::Outcome;
use bench::process::Sidecar;
use bench::record::{CallEnd, CallRecord, digest};
use bench::server::Server;
use bench::wait::{soon, until};
use h2::Reason;

use crate::pair::{ANY, BIDI, CLIENT_STREAM, ECHO, Site, UNARY, mesh, metric};

/// Three apps and a caller's sidecar that hedges calls to them.
struct Field {
    apps: Vec<Server>,
    caller: Sidecar,
    client: Client,
    _site: Site,
}

impl Field {
    /// `hedging`: what the block says.
    async fn start(hedging: &str) -> Self {
        let site = Site::new();
        let mut apps = Vec::new();
        for _ in 0..3 {
            apps.push(Server::start(ANY).await.expect("an app"));
        }
        let endpoints: Vec<_> = apps.iter().map(|app| app.addr).collect();
        let policies = format!(
            "    hedging: {hedging}\n    retry_budget: {{min_per_second: 1000}}\n    upstream: {{connect_timeout: 20s}}"
        );
        let plain =
            mesh(&endpoints, &policies).replace("endpoints: [\"", "endpoints: [{tls: none, address: \"");
        let plain = plain.replace("\", \"", "\"}, {tls: none, address: \"").replace("\"]", "\"}]");
        let caller = site.caller(&plain, "").await;
        let client = Client::connect(caller.outbound(), None).await.expect("a connection");
        Self { apps, caller, client, _site: site }
    }

    /// Has all apps but this one read requests and never answer.
    fn only_one_answers(&self, answers: usize) {
        for (number, app) in self.apps.iter().enumerate() {
            app.script_always((number != answers).then_some("hang"));
        }
    }

    /// What each app saw of a call, of those that saw it.
    fn seen(&self, nonce: &str) -> Vec<CallRecord> {
        self.apps.iter().flat_map(|app| app.calls_with_nonce(nonce)).collect()
    }

    /// Sends these messages as a stream, and waits for the end.
    async fn stream(&self, path: &str, nonce: &str, messages: &[Vec<u8>]) -> Outcome {
        let spec = CallSpec::new(ECHO, path).header("x-nonce", nonce);
        let (mut sender, receiver) = self.client.call(spec).await.expect("a call").split();
        let sending = async {
            for message in messages {
                sender.send(message).await.expect("a message is taken");
            }
            sender.half_close();
        };
        soon(nonce, async { tokio::join!(sending, receiver.finish()).1 }).await
    }
}

fn messages(random: &mut fastrand::Rng, count: usize, longest: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| (0..random.usize(0..=longest)).map(|_| random.u8(..)).collect()).collect()
}

#[tokio::test]
async fn the_one_that_answers_has_all_of_the_request_and_the_others_a_beginning_of_it() {
    let field = Field::start("{max_attempts: 3, hedging_delay: 2ms, replay_limit: 8MiB}").await;
    let mut random = fastrand::Rng::with_seed(41);
    for round in 0..40 {
        let (answers, count) = (random.usize(..3), random.usize(0..60));
        field.only_one_answers(answers);
        let sent = messages(&mut random, count, 8_000);
        let nonce = format!("round-{round}");
        let outcome = field.stream(CLIENT_STREAM, &nonce, &sent).await;
        assert!(outcome.is_ok(), "{nonce}: {outcome:?}");
        let [record] = &field.apps[answers].calls_with_nonce(&nonce)[..] else {
            panic!("{nonce}: seen once")
        };
        assert_eq!((record.messages, record.digest), (sent.len() as u64, digest(&sent)), "{nonce}");
        for other in field.seen(&nonce) {
            let part = digest(&sent[..other.messages as usize]);
            assert_eq!(other.digest, part, "{nonce}: an app saw what was not sent");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_answered_on_its_way_goes_on_with_that_one() {
    let field = Field::start("{max_attempts: 3, hedging_delay: 1ms, replay_limit: 8MiB}").await;
    let mut random = fastrand::Rng::with_seed(42);
    for round in 0..10 {
        let answers = random.usize(..3);
        field.only_one_answers(answers);
        // Far more than is ever kept.
        let sent = messages(&mut random, 300, 40_000);
        let nonce = format!("round-{round}");
        let outcome = field.stream(BIDI, &nonce, &sent).await;
        assert!(outcome.is_ok() && outcome.messages == sent.len() as u64, "{nonce}: {outcome:?}");
        let [record] = &field.apps[answers].calls_with_nonce(&nonce)[..] else {
            panic!("{nonce}: seen once")
        };
        assert_eq!((record.messages, record.digest), (sent.len() as u64, digest(&sent)), "{nonce}");
    }
    until("nothing is kept", async || metric(&field.caller, "outrigger_replay_bytes", &[]).await == 0).await;
}

#[tokio::test]
async fn a_request_that_outgrows_what_is_kept_goes_on_with_the_one_that_is_furthest() {
    let field = Field::start("{max_attempts: 3, hedging_delay: 0s, replay_limit: 64KiB}").await;
    // Headers that come at once would settle a call before it has outgrown anything.
    field.apps.iter().for_each(|app| app.script_always(Some("delay:300ms")));
    let mut random = fastrand::Rng::with_seed(43);
    for round in 0..10 {
        let sent = messages(&mut random, 200, 40_000);
        let nonce = format!("round-{round}");
        let outcome = field.stream(CLIENT_STREAM, &nonce, &sent).await;
        assert!(outcome.is_ok(), "{nonce}: {outcome:?}");
        let ended = async || field.seen(&nonce).iter().all(|record| record.end != CallEnd::Open);
        until("each app has seen the end", ended).await;
        let whole: Vec<_> =
            field.seen(&nonce).into_iter().filter(|record| record.end == CallEnd::Clean).collect();
        let [record] = &whole[..] else { panic!("{nonce}: one has all of it, {whole:?}") };
        assert_eq!((record.messages, record.digest), (sent.len() as u64, digest(&sent)), "{nonce}");
    }
    let refused = metric(&field.caller, "outrigger_refused_total", &[("limit", "replay_buffer")]).await;
    // Where the machine stood still for as long as answers are delayed, one came first.
    assert!((5..=10).contains(&refused), "{refused}");
}

#[tokio::test]
async fn the_others_are_cancelled_and_counted_as_outrun() {
    let field = Field::start("{max_attempts: 3, hedging_delay: 5ms}").await;
    field.only_one_answers(2);
    let mut all = 0;
    for round in 0..30 {
        let nonce = format!("round-{round}");
        let outcome = field.stream(UNARY, &nonce, &[b"one".to_vec()]).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        let cancelled = CallEnd::ResetByPeer(Reason::CANCEL);
        let is_over = |record: &CallRecord| record.end == CallEnd::Clean || record.end == cancelled;
        until("the others are cancelled", async || field.seen(&nonce).iter().all(is_over)).await;
        all += field.seen(&nonce).len();
    }
    let outcome =
        async |outcome| metric(&field.caller, "outrigger_attempts_total", &[("outcome", outcome)]).await;
    assert_eq!(outcome("answered").await, 30);
    let outrun = outcome("outrun").await;
    let saved = metric(&field.caller, "outrigger_repeated_calls_total", &[("end", "saved")]).await;
    let hedges = metric(&field.caller, "outrigger_repeats_total", &[("cause", "hedge")]).await;
    // No app sees an attempt that is outrun while it connects, or before its HEADERS are read; and one that is outrun
    // before it was placed is none.
    let seen = all as u64 - 30;
    assert!(
        saved > 0 && seen > 0 && seen <= outrun && outrun <= hedges && hedges <= 2 * 30,
        "{saved} calls saved, {hedges} hedges, {outrun} outrun, {seen} of them seen"
    );
}
