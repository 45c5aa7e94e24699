//! A sidecar for the tests of this folder.

use clap::Parser;

use crate::init::options::Options;
use crate::init::plan::Plan;

/// Two entries with a listener each, and both ways.
pub(crate) const BOTH: &str = "service: orders\n\
    inbound:\n  - {listen: 0.0.0.0:15006, app: 127.0.0.1:50051, mtls: off}\n  \
    - {listen: 0.0.0.0:15007, app: 127.0.0.1:50052, mtls: off}\n\
    outbound: {}\nmesh: {file: mesh.yaml}\n";

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// The plan for a file of this text and more words of the command line.
pub(crate) fn plan(sidecar: &str, words: &str) -> Result<Plan, Vec<String>> {
    let line = Line::parse_from(["init", "sidecar.yaml"].into_iter().chain(words.split_whitespace()));
    let source = config::Source { name: "sidecar.yaml", text: sidecar };
    Plan::new(&config::parse_sidecar(source).expect("a good file"), &line.options)
}
