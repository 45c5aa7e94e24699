//! Outrigger as a target: one worker, and nothing configured but the way through.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::certs::Ca;
use crate::process::Sidecar;
use crate::site::{Process, Site};

const ECHO_ID: &str = "spiffe://cluster.local/ns/bench/sa/echo";
const CALLER_ID: &str = "spiffe://cluster.local/ns/bench/sa/caller";
const REST: &str = "namespace: bench\nworkers: 1\nadmin: {listen: 127.0.0.1:0, socket: admin.sock}\n\
    probes: {listen: 127.0.0.1:0}\nmesh: {file: mesh.yaml}\ndrain: {lag: 1ms, deadline: 5s}\n";
const IDENTITY: &str = "identity: {cert: tls.crt, key: tls.key, bundle: ca.crt}\n";

pub(super) async fn inbound(site: &Site<'_>) -> io::Result<(SocketAddr, Vec<Process>)> {
    let dir = site.folder("inbound", None)?;
    let yaml = format!(
        "service: echo\n{REST}inbound:\n  - {{listen: 127.0.0.1:0, app: \"{}\", mtls: \"off\"}}\n",
        site.echo
    );
    let sidecar = run(site, &dir, &yaml, &mesh(site.echo, "none", site.rules)).await?;
    Ok((sidecar.inbound(), vec![Process::Sidecar(Box::new(sidecar))]))
}

pub(super) async fn pair(site: &Site<'_>) -> io::Result<(SocketAddr, Vec<Process>)> {
    let ca = Ca::new("cluster.local");
    let dir = site.folder("inbound", Some((&ca, ECHO_ID)))?;
    let yaml = format!(
        "service: echo\n{REST}{IDENTITY}inbound:\n  - {{listen: 127.0.0.1:0, app: \"{}\", mtls: strict}}\n",
        site.echo
    );
    let callee = run(site, &dir, &yaml, &mesh(site.echo, "none", site.rules)).await?;

    let dir = site.folder("outbound", Some((&ca, CALLER_ID)))?;
    let yaml = format!("service: caller\n{REST}{IDENTITY}outbound: {{listen: 127.0.0.1:0}}\n");
    let caller = run(site, &dir, &yaml, &mesh(callee.inbound(), "mesh", 0)).await?;
    let entry = caller.outbound();
    Ok((entry, vec![Process::Sidecar(Box::new(callee)), Process::Sidecar(Box::new(caller))]))
}

fn mesh(endpoint: SocketAddr, tls: &str, rules: usize) -> String {
    format!(
        "version: 1\ntrust_domain: cluster.local\nservices:\n  - name: echo\n    namespace: bench\n    \
         endpoints:\n      - {{address: \"{endpoint}\", tls: {tls}}}\n{}  - name: caller\n    namespace: bench\n",
        authorization(rules)
    )
}

/// So many rules, some of every kind, of which the last one lets the load in.
fn authorization(rules: usize) -> String {
    if rules == 0 {
        return String::new();
    }
    let mut text = "    inbound:\n      authorization:\n".to_owned();
    for at in 1..rules {
        let rule = match at % 4 {
            0 => format!("allow: {{from: [spiffe://cluster.local/ns/bench/sa/other-{at}]}}"),
            1 => format!("deny: {{methods: [bench.Echo/Other{at}, bench.Other{at}/*]}}"),
            2 => format!(
                "allow: {{from: [spiffe://cluster.local/ns/other-{at}/*], methods: [bench.Echo/Unary]}}"
            ),
            _ => format!("audit: {{from: ['*'], methods: [bench.Echo/Told{at}]}}"),
        };
        text.push_str(&format!("        - {{{rule}}}\n"));
    }
    text + "        - allow: {methods: [bench.Echo/Unary]}\n"
}

async fn run(site: &Site<'_>, dir: &Path, sidecar: &str, mesh: &str) -> io::Result<Sidecar> {
    std::fs::write(dir.join("sidecar.yaml"), sidecar)?;
    std::fs::write(dir.join("mesh.yaml"), mesh)?;
    let mut command = site.command(&site.binaries.proxy);
    command.arg("sidecar.yaml").current_dir(dir);
    Sidecar::spawn(command).await
}
