//! Who the sidecar is, by what it proves that, and whom it believes.

use bench::certs::Ca;
use bench::server::{Server, ServerOptions};
use bench::tls::{ServerTls, TlsIdentity};
use serde_json::json;

use crate::kit::{
    Case, ECHO, OK, PERMISSION_DENIED, Site, UNARY, UNAVAILABLE, admits, echo, id, landed, serve, service,
};

cases! {
    "sidecar.service" => an_inbound_call_is_for_the_service_of_the_sidecar,
    "sidecar.namespace" => that_service_is_looked_up_in_the_namespace_of_the_sidecar,
    "sidecar.account" => the_certificate_must_be_that_of_the_account,
    "sidecar.trust_domain" => the_certificate_must_be_of_the_trust_domain,
    "sidecar.workers" => each_worker_has_upstream_connections_of_its_own,
    "sidecar.identity.cert" => the_certificate_comes_from_its_file,
    "sidecar.identity.key" => the_key_comes_from_its_file,
    "sidecar.identity.bundle" => a_caller_is_judged_by_the_bundle,
    "sidecar.mesh.file" => the_mesh_comes_from_its_file,
    "mesh.version" => a_mesh_of_another_version_is_refused,
    "mesh.trust_domain" => services_have_identities_in_the_trust_domain_of_the_mesh,
    "mesh.services[].identities[]" => a_service_must_prove_one_of_its_identities,
}

async fn an_inbound_call_is_for_the_service_of_the_sidecar(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app).with(closed("shut", "shop"));
    assert_eq!(base.status().await, OK);
    assert_eq!(case.change(&base, "sidecar service", "shut").status().await, PERMISSION_DENIED);
}

async fn that_service_is_looked_up_in_the_namespace_of_the_sidecar(case: &Case) {
    let app = echo("app").await;
    let base = Site::inbound(&app).with(closed("echo", "night"));
    assert_eq!(base.status().await, OK);
    assert_eq!(case.change(&base, "sidecar namespace", "night").status().await, PERMISSION_DENIED);
}

async fn the_certificate_must_be_that_of_the_account(case: &Case) {
    let ca = Ca::new("cluster.local");
    let server = tls_echo(&ca, &id("echo")).await;
    let base = Site::outbound(&[service("echo", &[&server])]).identified(&ca, &id("batch"));
    let said = base.refused().await;
    assert!(said.contains("the certificate is for spiffe://cluster.local/ns/shop/sa/batch"), "{said}");
    assert_eq!(case.change(&base, "sidecar account", "batch").status().await, OK);
}

async fn the_certificate_must_be_of_the_trust_domain(case: &Case) {
    let ca = Ca::new("example.org");
    let server = tls_echo(&ca, "spiffe://example.org/ns/shop/sa/echo").await;
    let mut base = Site::outbound(&[service("echo", &[&server])])
        .identified(&ca, "spiffe://example.org/ns/shop/sa/caller");
    base.mesh["trust_domain"] = json!("example.org");
    let said = base.refused().await;
    assert!(said.contains("the trust domain is `cluster.local` here"), "{said}");
    assert_eq!(case.change(&base, "sidecar trust_domain", "example.org").status().await, OK);
}

async fn each_worker_has_upstream_connections_of_its_own(case: &Case) {
    let connections = async |site: &Site, server: &Server| {
        let before = server.accepted();
        let sidecar = site.start().await;
        let (one, two) = (sidecar.client().await, sidecar.client().await);
        for client in [&one, &two, &one, &two] {
            assert!(client.unary(ECHO, UNARY, b"ping").await.expect("a call").is_ok());
        }
        server.accepted() - before
    };
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    assert_eq!(connections(&base, &server).await, 1);
    assert_eq!(connections(&case.change(&base, "sidecar workers", 2), &server).await, 2);
}

async fn the_certificate_comes_from_its_file(case: &Case) {
    let (_app, ca, base) = strict().await;
    let other = ca.leaf(&id("echo"));
    let base = base.file("other.crt", other.cert_pem);
    assert!(admits(base.start().await.inbound(), caller(&ca)).await);
    let said = case.change(&base, "sidecar identity cert", "other.crt").refused().await;
    assert!(said.contains("tls.key: does not fit other.crt"), "{said}");
}

async fn the_key_comes_from_its_file(case: &Case) {
    let (_app, ca, base) = strict().await;
    let other = ca.leaf(&id("echo"));
    let base = base.file("other.key", other.key_pem);
    assert!(admits(base.start().await.inbound(), caller(&ca)).await);
    let said = case.change(&base, "sidecar identity key", "other.key").refused().await;
    assert!(said.contains("other.key: does not fit tls.crt"), "{said}");
}

async fn a_caller_is_judged_by_the_bundle(case: &Case) {
    let (_app, ca, base) = strict().await;
    let base = base.file("other.crt", Ca::new("cluster.local").bundle_pem());
    assert!(admits(base.start().await.inbound(), caller(&ca)).await);
    let changed = case.change(&base, "sidecar identity bundle", "other.crt").start().await;
    assert!(!admits(changed.inbound(), caller(&ca)).await);
    let refused = [("reason", "unknown_issuer")];
    changed.counts("outrigger_handshake_failures_total", &refused, 1.0).await;
}

async fn the_mesh_comes_from_its_file(case: &Case) {
    let (one, two) = (echo("one").await, echo("two").await);
    let base = Site::outbound(&[service("echo", &[&one])]);
    let other = Site::outbound(&[service("echo", &[&two])]);
    let base = base.file("other.yaml", other.mesh.to_string());
    assert_eq!(landed(&base.start().await.unary(ECHO).await), "one");
    let changed = case.change(&base, "sidecar mesh file", "other.yaml");
    assert_eq!(landed(&changed.start().await.unary(ECHO).await), "two");
}

async fn a_mesh_of_another_version_is_refused(case: &Case) {
    let server = echo("echo").await;
    let base = Site::outbound(&[service("echo", &[&server])]);
    assert_eq!(base.status().await, OK);
    let said = case.change(&base, "mesh version", 2).refused().await;
    assert!(said.contains("version: "), "{said}");
}

async fn services_have_identities_in_the_trust_domain_of_the_mesh(case: &Case) {
    let ca = Ca::new("cluster.local");
    let server = tls_echo(&ca, &id("echo")).await;
    let base = Site::outbound(&[service("echo", &[&server])]).identified(&ca, &id("caller"));
    assert_eq!(base.status().await, OK);
    let said = case.change(&base, "mesh trust_domain", "example.org").refused().await;
    assert!(said.contains("`example.org` in mesh.yaml"), "{said}");
}

async fn a_service_must_prove_one_of_its_identities(case: &Case) {
    let ca = Ca::new("cluster.local");
    let server = tls_echo(&ca, &id("sound")).await;
    let mut echo = service("echo", &[&server]);
    echo["identities"] = json!([id("echo")]);
    let base = Site::outbound(&[echo]).identified(&ca, &id("caller"));
    assert_eq!(base.status().await, UNAVAILABLE);
    assert_eq!(server.calls().len(), 0, "not a byte of a call may reach an impostor");
    assert_eq!(case.change(&base, "mesh services 0 identities 0", id("sound")).status().await, OK);
}

/// A service that lets nobody in.
fn closed(name: &str, namespace: &str) -> serde_json::Value {
    json!({"name": name, "namespace": namespace, "inbound": {"authorization": []}})
}

/// An echo server that speaks mesh TLS as `spiffe_id`.
async fn tls_echo(ca: &Ca, spiffe_id: &str) -> Server {
    let tls = ServerTls { leaf: ca.leaf(spiffe_id), client_trust: Some(ca.bundle_pem().to_owned()) };
    serve(ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await
}

/// An inbound sidecar of `echo` with `mtls: strict`, its app and its authority.
async fn strict() -> (Server, Ca, Site) {
    let ca = Ca::new("cluster.local");
    let app = echo("app").await;
    let mut site = Site::inbound(&app).identified(&ca, &id("echo"));
    site.sidecar["inbound"][0]["mtls"] = json!("strict");
    (app, ca, site)
}

fn caller(ca: &Ca) -> TlsIdentity {
    TlsIdentity::mutual(&ca.leaf(&id("caller")), ca.bundle_pem())
}
