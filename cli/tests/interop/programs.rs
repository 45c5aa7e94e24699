//! The clients and servers, as processes.

use std::fmt;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench::process::die_with_parent;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::mesh::PAYMENTS;
use crate::parts::{Part, Parts, sources};

/// A program's next line comes within this; its calls give up sooner.
const LINE_MAX: Duration = Duration::from_secs(40);

/// What callers take for the port of `payments`.
const PORT: u16 = 50_051;

/// Variables that would lead a client elsewhere.
const PROXY_VARIABLES: [&str; 4] = ["grpc_proxy", "http_proxy", "https_proxy", "no_proxy"];

/// A gRPC library, by the language that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    Node,
    Go,
}

/// How a client finds its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It dials the sidecar and says by `:authority` whom it means.
    Authority,
    /// It is told of a proxy by its environment, and sends CONNECT with the name of the service, which nothing
    /// else could resolve.
    Connect,
    /// The same, but it asks for a server that is not of the mesh.
    ConnectOutside(SocketAddr),
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Go => "go",
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authority => "authority",
            Self::Connect => "connect",
            Self::ConnectOutside(_) => "connect to the outside",
        })
    }
}

impl Language {
    /// What its programs need.
    pub(crate) fn part(self) -> Part {
        match self {
            Self::Python => Part::Python,
            Self::Node => Part::Node,
            Self::Go => Part::Go,
        }
    }

    /// Where its library looks for a proxy.
    fn proxy_variable(self) -> &'static str {
        match self {
            Self::Python | Self::Node => "grpc_proxy",
            // As Go does for https, whatever the scheme.
            Self::Go => "HTTPS_PROXY",
        }
    }

    fn command(self, parts: &Parts, program: &str) -> Command {
        let found = parts.path(self.part());
        let (mut command, source) = match self {
            Self::Python => (Command::new(found), Some(format!("python/{program}.py"))),
            Self::Node => (Command::new("node"), Some(format!("node/{program}.js"))),
            Self::Go => (Command::new(found.join(program)), None),
        };
        if self == Self::Node {
            command.env("NODE_PATH", found);
        }
        command.args(source.map(|source| sources().join(source)));
        command
    }

    /// A server on any port of the loopback interface.
    pub(crate) async fn serve(self, parts: &Parts) -> Server {
        self.serve_with(parts, &[]).await
    }

    /// [`Language::serve`] with more arguments.
    pub(crate) async fn serve_with(self, parts: &Parts, more: &[&str]) -> Server {
        let mut command = self.command(parts, "server");
        command.args(["--listen", "127.0.0.1:0"]).args(more);
        Server::start(command).await
    }

    /// Runs checks (names with commas, or `all`) through the sidecar at `outbound`.
    ///
    /// # Panics
    /// When one fails, with all that failed.
    pub(crate) async fn check(self, parts: &Parts, way: Way, outbound: SocketAddr, checks: &str) {
        let failed = self.run(parts, way, outbound, &["--checks", checks]).await;
        assert!(failed.is_empty(), "{self} client by {way}, failed:\n{}", failed.join("\n"));
    }

    /// Runs a client with more arguments; what failed.
    pub(crate) async fn run(
        self,
        parts: &Parts,
        way: Way,
        outbound: SocketAddr,
        more: &[&str],
    ) -> Vec<String> {
        let mut command = self.command(parts, "client");
        let target = match way {
            Way::Authority => {
                command.args(["--authority", PAYMENTS]);
                outbound.to_string()
            }
            Way::Connect => format!("{PAYMENTS}:{PORT}"),
            Way::ConnectOutside(server) => server.to_string(),
        };
        if way != Way::Authority {
            command.env(self.proxy_variable(), format!("http://{outbound}"));
        }
        command.args(["--target", &target]).args(more);
        let mut program = Program::start(command);
        let (mut passed, mut failed) = (0, Vec::new());
        while let Some(line) = program.line().await {
            let name = line["check"].as_str().unwrap_or_else(|| panic!("{self} client: {line}"));
            match &line["ok"] {
                Value::Bool(true) => passed += 1,
                _ => failed.push(format!("  {name}: {}", line["why"].as_str().unwrap_or_default())),
            }
        }
        let status = program.child.wait().await.expect("a status");
        let told = status.success() == failed.is_empty() && passed + failed.len() > 0;
        assert!(told, "{self} client: {status}\n{}", program.said());
        failed
    }
}

/// A server that listens; it ends when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) program: Program,
}

impl Server {
    /// A backend that says it is `id`.
    pub(crate) async fn of_where(parts: &Parts, id: &str) -> Self {
        let mut command = python(parts, "where");
        command.args(["--id", id]);
        Self::start(command).await
    }

    /// One that prints where it listens.
    pub(crate) async fn start(command: Command) -> Self {
        let mut program = Program::start(command);
        let Some(line) = program.line().await else { panic!("a server that listens; {}", program.said()) };
        let addr = line["listen"].as_str().and_then(|text| text.parse().ok());
        Self { addr: addr.unwrap_or_else(|| panic!("no address: {line}")), program }
    }
}

/// A program of ours in Python: `python/NAME.py`.
pub(crate) fn python(parts: &Parts, name: &str) -> Command {
    Language::Python.command(parts, name)
}

/// A running program that prints lines of JSON; it ends when dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    last: String,
    stderr: Arc<Mutex<String>>,
}

impl Program {
    pub(crate) fn start(mut command: Command) -> Self {
        die_with_parent(&mut command);
        for variable in PROXY_VARIABLES {
            for variable in [variable.to_owned(), variable.to_uppercase()] {
                if !command.as_std().get_envs().any(|(set, _)| set == variable.as_str()) {
                    command.env_remove(variable);
                }
            }
        }
        let name = format!("{:?}", command.as_std());
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut piped = child.stderr.take().expect("it is piped");
        let stderr = Arc::new(Mutex::new(String::new()));
        let kept = stderr.clone();
        tokio::spawn(async move {
            let mut piece = [0; 4_096];
            while let Ok(count @ 1..) = piped.read(&mut piece).await {
                let mut kept = kept.lock().expect("nobody panics with it held");
                kept.push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        let stdin = child.stdin.take();
        Self { name, child, stdin, lines, last: "nothing".to_owned(), stderr }
    }

    /// Tells it something, a line of JSON, and waits for its answer.
    pub(crate) async fn ask(&mut self, command: &Value) -> Value {
        let stdin = self.stdin.as_mut().expect("it is piped");
        let told = stdin.write_all(format!("{command}\n").as_bytes()).await;
        let answer = match told {
            Ok(()) => self.line().await,
            Err(_) => None,
        };
        answer.unwrap_or_else(|| panic!("{} ended at {command}\n{}", self.name, self.said()))
    }

    /// Its next line, or that there is none left.
    ///
    /// # Panics
    /// When it takes longer than [`LINE_MAX`], with the line before; or is not JSON.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        let Ok(read) = timeout(LINE_MAX, self.lines.next_line()).await else {
            panic!("{} hangs: no line within {LINE_MAX:?} after {}\n{}", self.name, self.last, self.said());
        };
        self.last = read.expect("text")?;
        let parsed = serde_json::from_str(&self.last);
        Some(parsed.unwrap_or_else(|fault| panic!("{}: {:?}: {fault}", self.name, self.last)))
    }

    /// What it wrote to stderr.
    pub(crate) fn said(&self) -> String {
        self.stderr.lock().expect("nobody panics with it held").clone()
    }
}
