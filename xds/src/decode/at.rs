//! Where in a resource we are, and what is done about fields that we do not understand.

use std::fmt;

use crate::refusal::Refusal;

/// A place in a resource. It lives on the stack, and becomes text only where something is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    above: Option<&'a At<'a>>,
    field: &'a str,
    which: Which<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Which<'a> {
    One,
    Index(usize),
    Key(&'a str),
}

impl<'a> At<'a> {
    /// The resource itself.
    pub(crate) const ROOT: At<'static> = At { above: None, field: "", which: Which::One };

    /// A field of it.
    pub(crate) fn field<'b>(&'b self, field: &'b str) -> At<'b> {
        At { above: Some(self), field, which: Which::One }
    }

    /// An entry of a list in it.
    pub(crate) fn item<'b>(&'b self, field: &'b str, index: usize) -> At<'b> {
        At { above: Some(self), field, which: Which::Index(index) }
    }

    /// An entry of a map in it.
    pub(crate) fn entry<'b>(&'b self, field: &'b str, key: &'b str) -> At<'b> {
        At { above: Some(self), field, which: Which::Key(key) }
    }

    /// What stands here is refused.
    pub(crate) fn refuse(&self, why: impl Into<String>) -> Refusal {
        Refusal::new(self.to_string(), why)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(above) = self.above else { return Ok(()) };
        above.fmt(f)?;
        if above.above.is_some() {
            f.write_str(".")?;
        }
        f.write_str(self.field)?;
        match self.which {
            Which::One => Ok(()),
            Which::Index(index) => write!(f, "[{index}]"),
            Which::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// Refuses a field that says something.
pub(crate) fn unset<T: Default + PartialEq>(
    value: &T,
    at: &At<'_>,
    field: &str,
    why: &str,
) -> Result<(), Refusal> {
    match *value == T::default() {
        true => Ok(()),
        false => Err(at.field(field.trim_start_matches("r#")).refuse(why)),
    }
}

/// Takes a message apart, every field of it: those that are read, those that mean nothing to us (names for statistics,
/// traces, logs), and those that are refused where they say something. A field that is in none of the lists does not
/// compile, so that none of a newer version of the protos is overlooked.
///
/// The message is behind a reference, and so are the variables that `take` makes.
macro_rules! understood {
    (
        $message:expr => $type:path, $at:expr;
        take { $($taken:ident),* $(,)? }
        ignore { $($ignored:ident),* $(,)? }
        $(refuse $why:literal { $($refused:ident),* $(,)? })*
    ) => {
        let $type { $($taken,)* $($ignored: _,)* $($($refused,)*)* } = $message;
        $($($crate::decode::at::unset($refused, $at, stringify!($refused), $why)?;)*)*
    };
}
pub(crate) use understood;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::route::NonForwardingAction;

    #[test]
    fn a_place_reads_as_in_the_proto() {
        let root = At::ROOT;
        let host = root.item("virtual_hosts", 1);
        let route = host.item("routes", 2);
        assert_eq!(route.field("match").to_string(), "virtual_hosts[1].routes[2].match");
        let fault = route.entry("typed_per_filter_config", "f");
        assert_eq!(fault.refuse("no").path, "virtual_hosts[1].routes[2].typed_per_filter_config[\"f\"]");
        assert_eq!(root.to_string(), "");
    }

    #[test]
    fn a_field_that_says_nothing_is_no_fault() {
        assert_eq!(unset(&0, &At::ROOT, "r#match", "no"), Ok(()));
        assert_eq!(
            unset(&Some(NonForwardingAction {}), &At::ROOT, "r#match", "no"),
            Err(Refusal::new("match", "no"))
        );
    }
}
