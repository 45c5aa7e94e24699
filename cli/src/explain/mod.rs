//! `outrigger explain`: where a call goes, and why.

mod source;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::explain::source::Source;

/// The admin listener of the sidecar beside.
const ADMIN: &str = "http://127.0.0.1:15000";

/// What is asked, and who.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Who is called: what the call has as `:authority`.
    #[arg(long, value_name = "HOST[:PORT]")]
    authority: String,
    /// What is called: package.Service/Method.
    #[arg(long, value_name = "METHOD")]
    method: String,
    /// A header of the call; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The SPIFFE id of who calls, for what the service that is called asks of its callers.
    #[arg(long, value_name = "SPIFFE_ID")]
    caller: Option<String>,
    /// Asks a running sidecar, at its admin listener (default: http://127.0.0.1:15000).
    #[arg(long, value_name = "URL", conflicts_with_all = ["file", "control"])]
    admin: Option<String>,
    /// Asks a mesh file, or a folder of them.
    #[arg(long, value_name = "PATH", conflicts_with = "control")]
    file: Option<PathBuf>,
    /// The service that makes the call (NAME or NAME.NAMESPACE), with --file, or with --control without --proxy.
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["admin", "proxy"])]
    from: Option<String>,
    /// Asks a control plane, at its admin listener.
    #[arg(long, value_name = "HOST:PORT")]
    control: Option<String>,
    /// What the control plane holds for this proxy, by its id as `outrigger status` shows it; without it, what it has for
    /// sidecars.
    #[arg(long, value_name = "ID", requires = "control")]
    proxy: Option<String>,
    /// Prints JSON, for tools.
    #[arg(long)]
    json: bool,
}

/// Answers. Exit code 0: there is an answer, be it that the call is refused; 1: whoever was asked did not give one.
pub(crate) fn run(options: &Options) -> ExitCode {
    match answer(options) {
        Ok(answer) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("outrigger explain: {error}");
            ExitCode::FAILURE
        }
    }
}

fn answer(options: &Options) -> Result<String, String> {
    let Options { authority, method, headers, caller, .. } = options;
    let mut call = proxy::explain::Call::new(authority, method, headers)?;
    if let Some(caller) = caller {
        call = call.by(caller)?;
    }
    let from = options.from.as_deref();
    let source = match (&options.file, &options.control) {
        (Some(file), _) => Source::File { file, from },
        (_, Some(control)) => Source::Control { control, proxy: options.proxy.as_deref(), from },
        _ if from.is_some() => return Err("--from stands with --file or --control".to_owned()),
        _ => Source::Sidecar(options.admin.as_deref().unwrap_or(ADMIN)),
    };
    let answer = match source {
        Source::Sidecar(admin) => source::ask(admin, authority, method, headers, caller.as_deref())?,
        source => source.view()?.explain(&call),
    };
    Ok(if options.json { format!("{answer:#}\n") } else { text::render(&answer) })
}

/// Reads `NAME:VALUE`.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("there is no colon: write NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}
