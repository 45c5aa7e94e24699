//! Retries over two sidecars: the callee's says how its app failed, the caller's repeats.

use bench::call::CallSpec;
use bench::client::Client;
use bench::script::Scripts;
use bench::server::{Server, ServerOptions};

use crate::pair::{ANY, ECHO, Site, UNARY, mesh};

#[tokio::test]
async fn what_breaks_behind_a_callees_sidecar_is_repeated_at_another() {
    let site = Site::new();
    let scripts = Scripts::default();
    let (mut apps, mut callees) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let options = ServerOptions { scripts: scripts.clone(), ..ServerOptions::default() };
        let app = Server::start_with(ANY, options).await.expect("an app");
        callees.push(site.callee(app.addr, "").await);
        apps.push(app);
    }
    let addresses: Vec<_> = callees.iter().map(bench::process::Sidecar::inbound).collect();
    // By default two seconds to connect, which a handshake may take on a loaded machine.
    let rule = "    upstream: {connect_timeout: 20s}\n    \
        retries: {max_attempts: 2, initial_backoff: 1ms, retryable_status_codes: [UNAVAILABLE, INTERNAL]}";
    let caller = site.caller(&mesh(&addresses, rule), "").await;
    let client = Client::connect(caller.outbound(), None).await.expect("a connection");
    let faults = [
        ("trailers-only:14", 2),
        ("reset:INTERNAL_ERROR", 2),
        ("disconnect", 2),
        ("goaway-above", 2),
        ("refused", 2),
        ("goaway-below", 2),
        ("after:1,disconnect", 2),
        // Headers have committed the call.
        ("reply:0,disconnect", 1),
        ("status-no-message:14", 1),
    ];
    for (number, (fault, attempts)) in faults.into_iter().enumerate() {
        scripts.next(fault);
        let nonce = number.to_string();
        let spec = CallSpec::new(ECHO, UNARY).header("x-nonce", &nonce);
        let outcome = client.unary_with(spec, b"x").await.expect("a call");
        let seen: Vec<usize> = apps.iter().map(|app| app.calls_with_nonce(&nonce).len()).collect();
        assert_eq!(outcome.is_ok(), attempts == 2, "{fault}: {outcome:?}");
        assert_eq!(seen.iter().sum::<usize>(), attempts, "{fault}: {seen:?}");
        assert!(seen.iter().all(|count| *count <= 1), "{fault}: {seen:?}");
    }
}
