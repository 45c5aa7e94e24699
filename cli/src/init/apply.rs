//! Runs the tools: the only part of `outrigger init` that changes anything.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::init::cidr::Family;
use crate::init::options::Tool;
use crate::init::plan::Plan;
use crate::init::{iptables, nft};

/// CAP_NET_ADMIN's bit in the masks of `/proc/self/status` (capabilities(7)).
const NET_ADMIN_BIT: u32 = 12;

const NFT: &str = "nft";
const FAMILIES: [(Family, &str, &str); 2] =
    [(Family::V4, "iptables-save", "iptables-restore"), (Family::V6, "ip6tables-save", "ip6tables-restore")];

/// What would be written, or what would take the rules away.
pub(crate) fn preview(tool: Tool, plan: Option<&Plan>) -> String {
    let is_iptables = tool == Tool::Iptables || tool == Tool::Auto && !is_installed(NFT) && has_iptables();
    if !is_iptables {
        return plan.map_or_else(nft::removal, nft::ruleset);
    }
    let texts = FAMILIES.map(|(family, save, restore)| {
        let saved = if is_installed(save) { saved(save).unwrap_or_default() } else { String::new() };
        let text = match plan {
            Some(plan) => Some(iptables::ruleset(plan, family, &saved)),
            None => iptables::removal(&saved),
        };
        text.map_or_else(String::new, |text| format!("# {restore} --noflush\n{text}"))
    });
    texts.concat()
}

/// Writes the rules; returns the name of the tool that did.
pub(crate) fn write(tool: Tool, plan: &Plan) -> Result<&'static str, String> {
    permitted()?;
    match tool {
        Tool::Nft | Tool::Auto if is_installed(NFT) => {
            feed(NFT, &["-f", "-"], &nft::ruleset(plan))?;
            Ok(NFT)
        }
        Tool::Iptables | Tool::Auto if has_iptables() => {
            for (family, save, restore) in FAMILIES {
                let doors = plan.doors(family);
                if doors.inbound.or(doors.outbound).is_some() {
                    feed(restore, &["--noflush"], &iptables::ruleset(plan, family, &saved(save)?))?;
                } else if is_installed(save) {
                    clear(save, restore)?;
                }
            }
            Ok("iptables-restore")
        }
        _ => Err(missing(tool)),
    }
}

/// Takes the rules away. With [`Tool::Auto`], those of every tool that is installed.
pub(crate) fn remove(tool: Tool) -> Result<(), String> {
    permitted()?;
    let nft = tool != Tool::Iptables && is_installed(NFT);
    let iptables = tool != Tool::Nft && has_iptables();
    if !nft && !iptables {
        return Err(missing(tool));
    }
    if nft {
        feed(NFT, &["-f", "-"], &nft::removal())?;
    }
    for (_, save, restore) in FAMILIES.into_iter().filter(|(_, save, _)| iptables && is_installed(save)) {
        clear(save, restore)?;
    }
    Ok(())
}

fn clear(save: &str, restore: &str) -> Result<(), String> {
    // A kernel without a protocol's tables has no rules in them.
    match saved(save).ok().and_then(|saved| iptables::removal(&saved)) {
        Some(text) => feed(restore, &["--noflush"], &text),
        None => Ok(()),
    }
}

/// Rules can be written by whoever has CAP_NET_ADMIN here.
fn permitted() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Where the kernel does not say, the tool will.
    if mask.is_none_or(|mask| mask >> NET_ADMIN_BIT & 1 == 1) {
        return Ok(());
    }
    Err("rules need CAP_NET_ADMIN; run as root in the pod's network namespace, or in Kubernetes in an init \
         container with `capabilities: {add: [NET_ADMIN, NET_RAW]}`; `--print` needs nothing"
        .to_owned())
}

fn missing(tool: Tool) -> String {
    match tool {
        Tool::Auto => "neither nft nor iptables-restore is installed; install nftables (apt-get install nftables)",
        Tool::Nft => "nft is not installed; install nftables (apt-get install nftables), or write `--tool iptables`",
        Tool::Iptables => {
            "iptables-restore and iptables-save are not installed; install iptables (apt-get install iptables), \
             or write `--tool nft`"
        }
    }
    .to_owned()
}

fn has_iptables() -> bool {
    is_installed("iptables-save") && is_installed("iptables-restore")
}

/// Also looks where the system's tools are, which the path of a plain user may leave out.
fn is_installed(program: &str) -> bool {
    located(program).is_some()
}

fn located(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn saved(program: &str) -> Result<String, String> {
    let say = |told: &str| format!("`{program} -t nat` failed: {}", told.trim());
    let mut command = Command::new(located(program).ok_or_else(|| say("not installed"))?);
    let output = command.args(["-t", "nat"]).output().map_err(|error| say(&error.to_string()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(say(&String::from_utf8_lossy(&output.stderr))),
    }
}

fn feed(program: &str, args: &[&str], text: &str) -> Result<(), String> {
    let say = |told: &str| format!("`{program} {}` failed: {}", args.join(" "), told.trim());
    let mut child = Command::new(located(program).ok_or_else(|| say("not installed"))?)
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| say(&error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early says why on stderr.
        match stdin.write_all(text.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(say(&error.to_string())),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(|error| say(&error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(say(&String::from_utf8_lossy(&output.stderr))),
    }
}
