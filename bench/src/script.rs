//! What the request header `x-script` tells the echo server to do to a call.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use h2::Reason;

/// Scripts that may wait for their call.
pub const NEXT_SCRIPTS_MAX: usize = 10_000;

/// A call's fate: perhaps a delay, then an action. Written as words with commas between them, for example
/// `delay:250ms,status:14`. In whatever order they are written, they happen in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// `delay:250ms`: waits before anything is answered.
    pub delay: Option<Duration>,
    /// `after:2`: reads so many messages, or to the end, before what follows. It needs an action that ends the call
    /// whatever its method.
    pub after: u64,
    /// `reply:1`: headers and so many messages `scripted` go out before what follows; the action's status then comes in
    /// trailers. It needs such an action too.
    pub reply: Option<u64>,
    /// `pause:250ms`: waits once more.
    pub pause: Option<Duration>,
    /// `pushback:20`: `grpc-retry-pushback-ms` with this value stands beside the status of the action.
    pub pushback: Option<String>,
    /// What happens then; `None`: the method does its work.
    pub action: Option<Action>,
}

/// One way for a call to end other than well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// `trailers-only:14`: one HEADERS frame with the status and END_STREAM.
    TrailersOnly(i32),
    /// `status:7`: the method's own answer, but with this status in the trailers.
    Status(i32),
    /// `status-no-message:14`: headers, no message, trailers.
    StatusNoMessage(i32),
    /// `reset:INTERNAL_ERROR`: RST_STREAM before the headers.
    Reset(Reason),
    /// `reset-after:3:CANCEL`: RST_STREAM after the headers and this many messages.
    ResetAfter(u64, Reason),
    /// `refused`: RST_STREAM(REFUSED_STREAM) before the headers.
    Refused,
    /// `goaway-below`: GOAWAY whose last stream is the one before this; earlier calls end, then it closes.
    GoawayBelow,
    /// `goaway-above`: GOAWAY whose last stream is far above, and the connection closes under the call.
    GoawayAbove,
    /// `hang`: reads the request, and never answers.
    Hang,
    /// `disconnect`: TCP RST at once.
    Disconnect,
    /// `disconnect-after:3`: TCP RST after the headers and this many messages.
    DisconnectAfter(u64),
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut script = Self::default();
        for word in text.split(',').map(str::trim) {
            let parts: Vec<&str> = word.split(':').collect();
            let action = match parts[..] {
                ["delay", time] => {
                    script.delay = Some(duration(time)?);
                    continue;
                }
                ["after", count] => {
                    script.after = number(count)?;
                    continue;
                }
                ["reply", count] => {
                    script.reply = Some(number(count)?);
                    continue;
                }
                ["pause", time] => {
                    script.pause = Some(duration(time)?);
                    continue;
                }
                ["pushback", value] => {
                    script.pushback = Some(value.to_owned());
                    continue;
                }
                ["trailers-only", code] => Action::TrailersOnly(number(code)?),
                ["status", code] => Action::Status(number(code)?),
                ["status-no-message", code] => Action::StatusNoMessage(number(code)?),
                ["reset", name] => Action::Reset(reason(name)?),
                ["reset-after", count, name] => Action::ResetAfter(number(count)?, reason(name)?),
                ["refused"] => Action::Refused,
                ["goaway-below"] => Action::GoawayBelow,
                ["goaway-above"] => Action::GoawayAbove,
                ["hang"] => Action::Hang,
                ["disconnect"] => Action::Disconnect,
                ["disconnect-after", count] => Action::DisconnectAfter(number(count)?),
                _ => return Err(format!("unknown script `{word}`; see bench::script::Action")),
            };
            script.action = Some(action);
        }
        let begins = script.reply.is_some() || script.pause.is_some();
        if begins && matches!(script.action, Some(Action::Refused | Action::GoawayBelow)) {
            return Err(format!("`{text}` would refuse what it has begun"));
        }
        let has_more = script.after > 0 || begins;
        if has_more && script.action.is_none_or(Action::is_of_the_method) {
            return Err(format!("`{text}` has no action that ends the call whatever its method"));
        }
        Ok(script)
    }
}

impl Action {
    /// Whether the method does its work, up to where the action ends it.
    fn is_of_the_method(self) -> bool {
        matches!(self, Self::Status(_) | Self::ResetAfter(..) | Self::DisconnectAfter(_))
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` in a script is not a number"))
}

fn duration(text: &str) -> Result<Duration, String> {
    if let Some(millis) = text.strip_suffix("ms") {
        return number(millis).map(Duration::from_millis);
    }
    match text.strip_suffix('s') {
        Some(seconds) => number(seconds).map(Duration::from_secs),
        None => Err(format!("`{text}` in a script is not a time like `250ms` or `2s`")),
    }
}

fn reason(name: &str) -> Result<Reason, String> {
    let known = (0..=13).map(Reason::from).find(|known| format!("{known:?}") == name);
    known.ok_or_else(|| format!("`{name}` in a script is not an error code of RFC 9113, section 7"))
}

/// The scripts of one server or of several.
#[derive(Clone, Debug, Default)]
pub struct Scripts {
    state: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: VecDeque<Script>,
    always: Option<Script>,
}

impl Scripts {
    /// The next call that brings no script of its own follows this one; several wait in a queue.
    ///
    /// # Panics
    /// When the script is misspelt or [`NEXT_SCRIPTS_MAX`] wait already: the test is wrong.
    pub fn next(&self, script: &str) {
        let next = &mut self.lock().next;
        assert!(next.len() < NEXT_SCRIPTS_MAX, "more than {NEXT_SCRIPTS_MAX} scripts wait");
        next.push_back(script.parse().unwrap_or_else(|fault| panic!("{fault}")));
    }

    /// Every call that has no other script follows this one; `None`: none.
    ///
    /// # Panics
    /// When the script is misspelt.
    pub fn always(&self, script: Option<&str>) {
        self.lock().always = script.map(|text| text.parse().unwrap_or_else(|fault| panic!("{fault}")));
    }

    pub(crate) fn take(&self) -> Script {
        let mut waiting = self.lock();
        waiting.next.pop_front().or_else(|| waiting.always.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_and_an_action_stand_together() {
        let script: Script = "delay:250ms, reset-after:3:ENHANCE_YOUR_CALM".parse().expect("a script");
        assert_eq!(script.delay, Some(Duration::from_millis(250)));
        assert_eq!(script.action, Some(Action::ResetAfter(3, Reason::ENHANCE_YOUR_CALM)));
    }

    #[test]
    fn what_comes_before_an_action_needs_one_that_ends_the_call() {
        let script: Script = "after:2,reply:1,pushback:-1,trailers-only:14".parse().expect("a script");
        assert_eq!((script.after, script.reply, script.pushback.as_deref()), (2, Some(1), Some("-1")));
        for wrong in ["after:1", "reply:1,status:14", "pause:1s,reset-after:1:CANCEL"] {
            assert!(wrong.parse::<Script>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_misspelt_script_is_named() {
        let fault = "refuse".parse::<Script>().expect_err("no such word");
        assert!(fault.contains("`refuse`"), "{fault}");
        assert!("reset:CANCELED".parse::<Script>().is_err());
    }
}
