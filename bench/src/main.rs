//! `bench`: load, echo, forwarders, and the figures. See `bench/README.md`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bench::compare::{self, LOADS};
use bench::load::{Load, Shape};
use bench::pin::{Cores, pin_self};
use bench::server::{Server, ServerOptions};
use bench::site::{Binaries, Listening};
use bench::target::Target;
use bench::{figures, forward, instructions, sections};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::net::TcpListener;

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Load generator, echo server, side-by-side benchmarks, figures.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Send load to an address and print what came of it, as JSON.
    Load(LoadArguments),
    /// Serve `bench.Echo`; the first line on stdout is the address, as JSON.
    Echo {
        /// Where to listen; port 0: any.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Forward bytes: the floor of all proxies.
    Tcp(Forwarding),
    /// Forward calls on bare h2: the floor of those that speak HTTP/2.
    Forward(Forwarding),
    /// Compare targets under the same loads; prints a table.
    Compare {
        #[command(flatten)]
        rounds: Rounds,
        /// Which targets; default: all, Envoy's where it is installed.
        #[arg(long, value_delimiter = ',')]
        targets: Vec<Target>,
        /// Which loads; default: all.
        #[arg(long, value_delimiter = ',')]
        loads: Vec<String>,
        /// Print JSON and not a table.
        #[arg(long)]
        json: bool,
    },
    /// User instructions per call, by callgrind.
    Instructions {
        /// Rules about callers that Outrigger has before the echo server; the last one lets calls in.
        #[arg(long, default_value_t = 0)]
        rules: usize,
        /// Which target.
        #[arg(long, default_value = "outrigger")]
        target: Target,
        /// The proxy; default: beside this program.
        #[arg(long)]
        proxy: Option<PathBuf>,
    },
    /// What a control plane costs under many clients, as JSON.
    Control {
        /// `outrigger-control`; default: beside this program.
        #[arg(long)]
        control: Option<PathBuf>,
        /// How often the quick rows are measured.
        #[arg(long, default_value_t = 1)]
        runs: usize,
        /// Divides the numbers of clients and services.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        scale: u16,
    },
    /// Measure everything and write it down.
    Figures {
        #[command(flatten)]
        rounds: Rounds,
        /// Measure this alone, and leave the rest of the file as it is.
        #[arg(long)]
        only: Option<Section>,
        /// `outrigger-control` for `--only control`; default: built in the profile `lean`.
        #[arg(long, requires = "only")]
        control: Option<PathBuf>,
        /// Where to write; default: `bench/figures.json` of the workspace.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// What can be measured by itself.
#[derive(Clone, Copy, ValueEnum)]
enum Section {
    /// The control plane under many clients.
    Control,
}

#[derive(clap::Args)]
struct Forwarding {
    /// Where to listen; port 0: any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to forward to.
    #[arg(long)]
    to: SocketAddr,
}

#[derive(clap::Args)]
struct Rounds {
    /// The proxy; default: beside this program, built if missing.
    #[arg(long)]
    proxy: Option<PathBuf>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of each load.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(clap::Args)]
struct LoadArguments {
    /// Where to connect.
    #[arg(long)]
    to: SocketAddr,
    /// `:authority`.
    #[arg(long, default_value = "echo.bench")]
    authority: String,
    /// Connections.
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Calls at once on each connection (closed loop, ping-pong).
    #[arg(long, default_value_t = 10)]
    streams: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// Messages back and forth on long streams, and no unary calls.
    #[arg(long)]
    ping_pong: bool,
    /// An open loop with so many calls per second.
    #[arg(long, conflicts_with = "ping_pong")]
    rate: Option<f64>,
    /// The longest it runs, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The most calls.
    #[arg(long, default_value_t = u64::MAX)]
    calls: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(run(arguments.command))) {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("bench: {fault}");
            ExitCode::FAILURE
        }
    }
}

async fn run(action: Action) -> io::Result<ExitCode> {
    let cores = Cores::choose();
    match action {
        Action::Load(arguments) => {
            let report = load(arguments).run().await?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Action::Echo { listen } => {
            let options = ServerOptions { record: false, ..ServerOptions::default() };
            let server = Server::start_with(listen, options).await?;
            tell(server.addr)?;
            std::future::pending::<()>().await;
        }
        Action::Tcp(forwarding) => forward::tcp(listener(forwarding.listen).await?, forwarding.to).await?,
        Action::Forward(forwarding) => forward::h2(listener(forwarding.listen).await?, forwarding.to).await?,
        Action::Compare { rounds, targets, loads, json } => {
            let loads = known(&loads)?;
            let targets = chosen(targets, &Binaries::find(None)?);
            let binaries = binaries(rounds.proxy, &targets)?;
            pin_self(cores.load)?;
            let each = Duration::from_secs_f64(rounds.seconds);
            let table = compare::run(&targets, &loads, rounds.runs, each, &binaries, cores).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&table)?);
            } else {
                print!("{}", compare::markdown(&table));
            }
        }
        Action::Instructions { rules, target, proxy } => {
            let count = instructions::per_call(target, &binaries(proxy, &[target])?, cores, rules).await?;
            let told =
                serde_json::json!({"target": target.name(), "rules": rules, "instructions_per_call": count});
            println!("{told}");
        }
        Action::Control { control, runs, scale } => {
            let control = control.map_or_else(|| Binaries::find(None).map(|found| found.control), Ok)?;
            let figures = bench::control::measure(&control, runs, usize::from(scale)).await?;
            println!("{}", serde_json::to_string_pretty(&figures)?);
        }
        Action::Figures { rounds, only, control, out } => {
            let page = Path::new(WORKSPACE).join("bench/README.md");
            // Figures that go elsewhere are not those of the page.
            let tell = out.is_none();
            let out = out.unwrap_or_else(|| Path::new(WORKSPACE).join("bench/figures.json"));
            let (text, control) = match only {
                None => {
                    let binaries = figures::build_lean(Path::new(WORKSPACE), rounds.proxy).await?;
                    let each = Duration::from_secs_f64(rounds.seconds);
                    let figures = figures::measure(rounds.runs, each, &binaries, cores).await?;
                    (serde_json::to_string_pretty(&figures)? + "\n", figures.control)
                }
                Some(Section::Control) => {
                    let known = std::fs::read_to_string(&out)?;
                    let control = match control {
                        Some(control) => control,
                        None => figures::build_lean_control(Path::new(WORKSPACE)).await?,
                    };
                    let figures = bench::control::measure(&control, rounds.runs, 1).await?;
                    (sections::replaced(&known, "control", &figures)?, figures)
                }
            };
            std::fs::write(&out, text)?;
            let tables = control.tables();
            if tell {
                std::fs::write(
                    &page,
                    sections::between(&std::fs::read_to_string(&page)?, "control", &tables)?,
                )?;
            }
            println!("{tables}\nwritten: {}", out.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(arguments: LoadArguments) -> Load {
    let shape = match arguments.rate {
        Some(per_second) => Shape::Open(per_second),
        None if arguments.ping_pong => Shape::PingPong,
        None => Shape::Closed,
    };
    Load {
        addr: arguments.to,
        authority: arguments.authority,
        tls: None,
        connections: arguments.connections,
        streams: arguments.streams,
        payload: arguments.payload,
        shape,
        duration: Duration::from_secs_f64(arguments.seconds),
        calls: arguments.calls,
    }
}

async fn listener(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addr).await?;
    tell(listener.local_addr()?)?;
    Ok(listener)
}

fn tell(listen: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(&Listening { listen })?)?;
    stdout.flush()
}

/// Builds the proxy where a target needs it, none was named and none is there.
fn binaries(proxy: Option<PathBuf>, targets: &[Target]) -> io::Result<Binaries> {
    let found = Binaries::find(proxy)?;
    let wanted = targets.iter().any(|target| matches!(target, Target::Outrigger | Target::OutriggerPair));
    if wanted && !found.proxy.is_file() {
        let mut cargo = std::process::Command::new("cargo");
        cargo.args(["build", "--release", "-p", "outrigger-proxy"]).current_dir(WORKSPACE);
        if !cargo.status()?.success() || !found.proxy.is_file() {
            let path = found.proxy.display();
            return Err(io::Error::other(format!("no proxy at {path}; name one with --proxy PATH")));
        }
    }
    Ok(found)
}

fn chosen(targets: Vec<Target>, binaries: &Binaries) -> Vec<Target> {
    if !targets.is_empty() {
        return targets;
    }
    let all = Target::value_variants().iter().copied();
    all.filter(|target| !target.is_envoy() || binaries.envoy.is_some()).collect()
}

fn known(names: &[String]) -> io::Result<Vec<&'static str>> {
    if names.is_empty() {
        return Ok(LOADS.to_vec());
    }
    let find = |name: &String| {
        let known = LOADS.into_iter().find(|known| known == name);
        known.ok_or_else(|| io::Error::other(format!("no load `{name}`; there are {}", LOADS.join(", "))))
    };
    names.iter().map(find).collect()
}
