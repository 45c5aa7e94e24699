//! An agent against a CA and a Workload API that are scripted: it gets, renews, follows, keeps, and says what is wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bench::authority::{Authority, By};
use bench::certs::Ca;
use bench::spiffe::{Svid, WorkloadApi};
use bench::wait::{soon, until};
use config::mesh_source::ControlAddress;
use config::spiffe::SpiffeId;
use outrigger_identity::agent::{Agent, Control, Settings, Source};
use outrigger_identity::material::Material;
use outrigger_identity::state::{Origin, Reason, State};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const ID: &str = "spiffe://cluster.local/ns/shop/sa/orders";
const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/payments";
const HOUR: Duration = Duration::from_secs(3_600);
/// Half of it is soon over, and in the other half a machine may stand still for three seconds.
const RENEWED_SOON: Duration = Duration::from_secs(8);

/// A running agent, ended when dropped.
struct Running {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(source: Source) -> Self {
        let mut settings = Settings::new(SpiffeId::parse(ID).unwrap(), source);
        settings.tell = Arc::new(|line| eprintln!("agent: {line}"));
        let (agent, state) = Agent::begin(settings);
        Self { state, task: tokio::spawn(agent.run()) }
    }

    async fn comes_to(&mut self, what: &str, holds: impl FnMut(&State) -> bool) -> State {
        let state = self.state.clone();
        let seen =
            soon(format!("{what}; now: {:?}", state.borrow().trouble), self.state.wait_for(holds)).await;
        seen.expect("the agent runs").clone()
    }

    async fn material(&mut self) -> Arc<Material> {
        let state = self.comes_to("a certificate", |state| state.material.is_some()).await;
        state.material.expect("there is one")
    }
}

/// A CA, and the files of who asks it.
struct Ground {
    folder: TempDir,
    authority: Authority,
}

impl Ground {
    async fn new(signer: Ca, life: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::start(signer, life).await.unwrap();
        std::fs::write(folder.path().join("bundle.pem"), &authority.bundle).unwrap();
        std::fs::write(folder.path().join("token"), "good.token\n").unwrap();
        Self { folder, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn control(&self) -> Control {
        Control {
            addresses: vec![address(&self.authority)],
            bundle: self.path("bundle.pem"),
            token: Some(self.path("token")),
            cache: None,
        }
    }

    fn agent(&self) -> Running {
        Running::start(Source::Control(self.control()))
    }
}

fn address(authority: &Authority) -> ControlAddress {
    ControlAddress::parse(&format!("https://{}", authority.addr)).unwrap()
}

fn roots(all: &[&Ca]) -> String {
    all.iter().map(|root| root.bundle_pem()).collect()
}

#[tokio::test]
async fn the_first_certificate_comes_by_the_token_and_each_later_one_by_the_one_before_with_a_new_key() {
    let ground = Ground::new(Ca::new("cluster.local"), RENEWED_SOON).await;
    let mut agent = ground.agent();
    let first = agent.material().await;
    assert_eq!(first.leaf.id.as_str(), ID);
    let later = agent.comes_to("two renewals", |state| state.counts.renewals >= 3).await;
    assert_eq!(later.origin, Some(Origin::Ca));
    let later = later.material.unwrap();
    assert_ne!(later.key, first.key, "each request has a new key");
    assert_eq!(later.roots, first.roots);
    let given = ground.authority.given();
    assert_eq!(given[..3], [By::Token("good.token".into()), By::Certificate, By::Certificate]);
}

#[tokio::test]
async fn the_first_certificate_has_all_roots_with_it() {
    let (one, two) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let both = roots(&[&one, &two]);
    let ground = Ground::new(one, HOUR).await;
    ground.authority.script(|script| script.roots = Some(both));
    assert_eq!(ground.agent().material().await.roots.len(), 2);
}

#[tokio::test]
async fn a_new_root_is_trusted_at_once_and_the_leaf_is_renewed_soon_after_it_signs() {
    let (one, two) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let (both, then, last) = (roots(&[&one, &two]), roots(&[&two, &one]), roots(&[&two]));
    // A 240th of its life is a quarter of a second.
    let ground = Ground::new(one, Duration::from_secs(60)).await;
    let mut agent = ground.agent();
    let first = agent.material().await;
    ground.authority.script(|script| script.roots = Some(both));
    let state = agent
        .comes_to("both roots", |state| state.material.as_ref().is_some_and(|m| m.roots.len() == 2))
        .await;
    assert_eq!(state.material.unwrap().chain, first.chain, "who signs has not changed");
    ground.authority.sign_by(two);
    ground.authority.script(|script| script.roots = Some(then));
    let renewed = agent.comes_to("a leaf of the new root", |state| state.counts.renewals == 2).await;
    assert_eq!(renewed.material.unwrap().roots.len(), 2, "old and new are trusted meanwhile");
    ground.authority.script(|script| script.roots = Some(last));
    let state =
        agent.comes_to("one root", |state| state.material.as_ref().is_some_and(|m| m.roots.len() == 1)).await;
    assert_eq!((state.counts.renewals, state.counts.trust_changes), (2, 3), "the leaf is of it already");
}

#[tokio::test]
async fn an_empty_or_broken_bundle_is_refused_told_and_changes_nothing() {
    let (ca, other) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let good = roots(&[&ca, &other]);
    let ground = Ground::new(ca, HOUR).await;
    let mut agent = ground.agent();
    agent.material().await;
    ground.authority.script(|script| script.roots = Some(good.clone()));
    let state = agent
        .comes_to("both roots", |state| state.material.as_ref().is_some_and(|m| m.roots.len() == 2))
        .await;
    let first = state.material.unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (n, bad) in ["", "no PEM", broken].into_iter().enumerate() {
        ground.authority.script(|script| script.roots = Some(bad.to_owned()));
        until("it is refused", async || ground.authority.refused() == n + 1).await;
        let state = agent
            .comes_to("it is told", |state| {
                state.trust_trouble.as_ref().is_some_and(|trouble| trouble.attempts as usize == n + 1)
            })
            .await;
        assert_eq!(state.trust_trouble.unwrap().reason, Reason::Answer);
        assert_eq!(state.material.unwrap().roots, first.roots);
    }
    ground.authority.script(|script| script.roots = Some(good));
    agent.comes_to("it heals", |state| state.trust_trouble.is_none()).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_any_more_is_replaced_by_the_token() {
    let ground = Ground::new(Ca::new("cluster.local"), Duration::from_secs(4)).await;
    let mut agent = ground.agent();
    agent.material().await;
    ground.authority.script(|script| script.distrusts = true);
    agent.comes_to("a second certificate", |state| state.counts.renewals == 2).await;
    let token = By::Token("good.token".into());
    assert_eq!(ground.authority.given(), [token.clone(), token]);
}

#[tokio::test]
async fn without_a_token_it_says_what_is_missing_and_goes_on_by_itself_once_it_is_there() {
    let ground = Ground::new(Ca::new("cluster.local"), HOUR).await;
    std::fs::remove_file(ground.path("token")).unwrap();
    let mut agent = ground.agent();
    let state = agent.comes_to("a trouble", |state| state.trouble.is_some()).await;
    let trouble = state.trouble.unwrap();
    assert_eq!(trouble.reason, Reason::Token);
    assert!(
        trouble.why.contains("/token: ") && trouble.why.contains("outrigger certs token"),
        "{}",
        trouble.why
    );
    std::fs::write(ground.path("token"), "good.token").unwrap();
    let state = agent.comes_to("a certificate", |state| state.material.is_some()).await;
    assert_eq!(state.trouble, None);
    assert!(state.counts.failed.iter().sum::<u64>() >= 1);
}

#[tokio::test]
async fn a_token_that_strangers_may_read_is_told_once_and_taken() {
    let ground = Ground::new(Ca::new("cluster.local"), HOUR).await;
    let file = ground.path("token");
    let told = async |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        // It is read more than once.
        ground.authority.script(|script| script.status = Some((14, "not yet".to_owned())));
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = told.clone();
        let mut settings = Settings::new(SpiffeId::parse(ID).unwrap(), Source::Control(ground.control()));
        settings.tell = Arc::new(move |line| into.lock().unwrap().push(line));
        let (agent, state) = Agent::begin(settings);
        let mut agent = Running { state, task: tokio::spawn(agent.run()) };
        agent.comes_to("two attempts", |state| state.trouble.as_ref().is_some_and(|t| t.attempts > 1)).await;
        ground.authority.script(|script| script.status = None);
        agent.material().await;
        let told = told.lock().unwrap();
        told.iter().filter(|line| line.contains("join token")).cloned().collect::<Vec<_>>()
    };
    let [line] = &told(0o644).await[..] else { panic!("not one line") };
    for part in ["/token: ", "mode 0644", ID, "chmod 600", "defaultMode: 0440"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    // As volumes of Kubernetes have it for a group.
    assert_eq!(told(0o640).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_the_ca_says_and_a_wrong_answer_are_told_by_reason() {
    let ground = Ground::new(Ca::new("cluster.local"), HOUR).await;
    let status = |code: u16, words: &str| Some((code, words.to_owned()));
    ground.authority.script(|script| script.status = status(16, "the token has expired"));
    let mut agent = ground.agent();
    let mut reason = async |reason: Reason, words: &str| {
        let state = agent
            .comes_to(words, |state| state.trouble.as_ref().is_some_and(|trouble| trouble.reason == reason))
            .await;
        let why = state.trouble.unwrap().why;
        assert!(why.contains(words), "{why}");
    };
    reason(Reason::Refused, "UNAUTHENTICATED: the token has expired").await;
    ground.authority.script(|script| script.status = status(14, "no CA here"));
    reason(Reason::Unavailable, "UNAVAILABLE: no CA here").await;
    ground.authority.script(|script| (script.status, script.id) = (None, Some(OTHER.to_owned())));
    reason(Reason::Answer, "the certificate is for spiffe://cluster.local/ns/shop/sa/payments").await;
    ground.authority.script(|script| (script.id, script.life) = (None, Duration::ZERO));
    reason(Reason::Clock, "set the clock").await;
    ground.authority.script(|script| script.life = HOUR);
    agent.comes_to("a certificate in the end", |state| state.trouble.is_none()).await;
}

#[tokio::test]
async fn a_control_plane_that_the_bundle_does_not_vouch_for_gets_no_token() {
    let ground = Ground::new(Ca::new("cluster.local"), HOUR).await;
    std::fs::write(ground.path("bundle.pem"), Ca::new("web.test").bundle_pem()).unwrap();
    let mut agent = ground.agent();
    let state = agent.comes_to("a trouble", |state| state.trouble.is_some()).await;
    assert_eq!(state.trouble.unwrap().reason, Reason::Tls);
    assert_eq!(ground.authority.given(), []);
    std::fs::write(ground.path("bundle.pem"), &ground.authority.bundle).unwrap();
    agent.material().await;
}

#[tokio::test]
async fn another_control_plane_serves_while_one_is_away() {
    let ground = Ground::new(Ca::new("cluster.local"), HOUR).await;
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut control = ground.control();
    control
        .addresses
        .insert(0, ControlAddress::parse(&format!("https://{}", away.local_addr().unwrap())).unwrap());
    drop(away);
    let mut agent = Running::start(Source::Control(control));
    agent.material().await;
    assert_eq!(agent.state.borrow().trouble, None, "one that answers is enough");
}

#[tokio::test]
async fn a_ca_that_tells_no_roots_is_followed_by_its_chains() {
    let (one, two) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let ground = Ground::new(one, RENEWED_SOON).await;
    ground.authority.script(|script| script.roots = None);
    let mut agent = ground.agent();
    agent.material().await;
    ground.authority.sign_by(two);
    let both = |state: &State| state.material.as_ref().is_some_and(|m| m.roots.len() == 2);
    agent.comes_to("the root before as well", both).await;
    agent.comes_to("only the new root", |state| !both(state)).await;
    assert_eq!(agent.state.borrow().trust_trouble, None);
}

#[tokio::test]
async fn what_is_kept_is_in_force_before_the_network_is_asked_and_nobody_else_may_read_it() {
    let ground = Ground::new(Ca::new("cluster.local"), HOUR).await;
    let folder = ground.path("kept");
    let control = Control { cache: Some(folder.clone()), ..ground.control() };
    let mut agent = Running::start(Source::Control(control.clone()));
    let first = agent.material().await;
    let file = folder.join("identity.pem");
    until("it is kept", async || file.exists()).await;
    drop(agent);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    // The CA is away, and the token too.
    let Ground { authority, .. } = &ground;
    authority.script(|script| script.status = Some((14, "away".to_owned())));
    std::fs::remove_file(ground.path("token")).unwrap();
    let again = Running::start(Source::Control(control));
    let state = again.state.borrow().clone();
    assert_eq!(state.origin, Some(Origin::Cache));
    assert_eq!(state.material.unwrap().digest, first.digest);
}

#[tokio::test]
async fn what_is_kept_and_foreign_broken_or_open_to_others_is_not_used_and_told() {
    let ground = Ground::new(Ca::new("cluster.local"), HOUR).await;
    let folder = ground.path("kept");
    let control = Control { cache: Some(folder.clone()), ..ground.control() };
    let mut agent = Running::start(Source::Control(control.clone()));
    agent.material().await;
    let file = folder.join("identity.pem");
    until("it is kept", async || file.exists()).await;
    drop(agent);
    let good = std::fs::read_to_string(&file).unwrap();
    let begin = |id: &str| {
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut settings = Settings::new(SpiffeId::parse(id).unwrap(), Source::Control(control.clone()));
        let into = told.clone();
        settings.tell = Arc::new(move |line| into.lock().unwrap().push(line));
        let (_agent, state) = Agent::begin(settings);
        let told = told.lock().unwrap().join("\n");
        (state.borrow().material.is_some(), told)
    };
    assert_eq!(begin(ID), (true, String::new()));
    let (used, told) = begin(OTHER);
    assert!(!used && told.contains(ID) && told.contains(OTHER), "{told}");
    let rights = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    rights(0o644);
    let (used, told) = begin(ID);
    assert!(!used && told.contains("0644") && told.contains("identity.pem"), "{told}");
    rights(0o600);
    for broken in [&good[..good.len() / 2], "", "outrigger identity 2\n", &good.replace("roots", "rats")] {
        std::fs::write(&file, broken).unwrap();
        let (used, told) = begin(ID);
        assert!(!used && told.contains("identity.pem"), "{told}");
    }
    std::fs::write(&file, good).unwrap();
    assert_eq!(begin(ID), (true, String::new()));
}

#[tokio::test]
async fn the_workload_api_is_followed_through_rotations_of_leaf_and_root_and_an_agent_that_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let (one, two) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let ours = |ca: &Ca, roots: &[&Ca]| Svid::new(ID, &ca.leaf(ID), roots);
    let other = Svid { hint: "payments".to_owned(), ..Svid::new(OTHER, &one.leaf(OTHER), &[&one]) };
    let api = WorkloadApi::start(&socket, Some(vec![other.clone(), ours(&one, &[&one])])).unwrap();
    let mut agent = Running::start(Source::WorkloadApi { socket: socket.clone() });
    let first = agent.material().await;
    assert_eq!((first.leaf.id.as_str(), first.roots.len()), (ID, 1));
    let leaf = one.leaf(ID);
    api.tell(Some(vec![other.clone(), Svid::new(ID, &leaf, &[&one])]));
    agent.comes_to("another leaf", |state| state.counts.renewals == 2).await;
    api.tell(Some(vec![Svid::new(ID, &leaf, &[&one, &two])]));
    let state = agent
        .comes_to("both roots", |state| state.material.as_ref().is_some_and(|m| m.roots.len() == 2))
        .await;
    assert_eq!(state.counts.renewals, 2, "the leaf is the same");
    api.tell(Some(vec![ours(&two, &[&two])]));
    let last = agent.comes_to("the new root's", |state| state.counts.renewals == 3).await.material.unwrap();
    // Nothing of ours among what it tells: what is in force stays, and what there is is named.
    api.tell(Some(vec![other]));
    let state = agent.comes_to("a trouble", |state| state.trouble.is_some()).await;
    let trouble = state.trouble.unwrap();
    assert_eq!(trouble.reason, Reason::NoIdentity);
    assert!(trouble.why.contains("(payments)") && trouble.why.contains(OTHER), "{}", trouble.why);
    assert_eq!(state.material.unwrap().digest, last.digest);
    drop(api);
    let gone = |state: &State| state.trouble.as_ref().is_some_and(|t| t.reason != Reason::NoIdentity);
    let state = agent.comes_to("the agent is gone", gone).await;
    assert_eq!(state.material.unwrap().digest, last.digest);
    let _api = WorkloadApi::start(&socket, Some(vec![ours(&two, &[&two])])).unwrap();
    let state = agent.comes_to("it is back", |state| state.counts.renewals == 4).await;
    assert_eq!(state.trouble, None);
}

#[tokio::test]
async fn a_workload_api_without_an_entry_for_us_says_so_and_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let api = WorkloadApi::start(&folder.path().join("agent.sock"), None).unwrap();
    let mut agent = Running::start(Source::WorkloadApi { socket: api.socket.clone() });
    let state = agent.comes_to("a trouble", |state| state.trouble.is_some()).await;
    let trouble = state.trouble.unwrap();
    assert_eq!(trouble.reason, Reason::NoIdentity);
    assert!(trouble.why.contains("PERMISSION_DENIED") && trouble.why.contains(ID), "{}", trouble.why);
    let ca = Ca::new("cluster.local");
    // A key that is not the leaf's, and a bundle that is not its root's.
    let mut wrong = Svid::new(ID, &ca.leaf(ID), &[&ca]);
    wrong.x509_svid_key = Svid::new(ID, &ca.leaf(ID), &[&ca]).x509_svid_key;
    let foreign = Svid::new(ID, &ca.leaf(ID), &[&Ca::new("cluster.local")]);
    let mut huge = Svid::new(ID, &ca.leaf(ID), &[&ca]);
    huge.hint = "x".repeat(4 << 20);
    let mut many = Svid::new(ID, &ca.leaf(ID), &[&ca]);
    many.bundle = many.bundle.repeat(65);
    for (bad, words) in [
        (wrong, "the key does not fit"),
        (foreign, "leads to none of the 1 roots"),
        (many, "more than 64 certificates"),
        (huge, "but at most 4194304 are read"),
    ] {
        api.tell(Some(vec![bad]));
        let told = |state: &State| state.trouble.as_ref().is_some_and(|trouble| trouble.why.contains(words));
        assert!(agent.comes_to(words, told).await.material.is_none());
    }
    api.tell(Some(vec![Svid::new(ID, &ca.leaf(ID), &[&ca])]));
    agent.material().await;
}
