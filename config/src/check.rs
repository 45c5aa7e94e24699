//! Whether a text is what a key of the model may hold, for those who build a model from elsewhere than YAML. The error is one
//! line: what is wrong, and what would be right.

use crate::fault::Wrong;
use crate::text::Text;

/// The size of a compiled regular expression, in bytes; one that needs more is refused.
pub const REGEX_BYTES_MAX: usize = 1 << 20;

/// The name of a service or a namespace: a DNS label.
pub fn name(text: &str) -> Result<(), String> {
    check(Text::Name, text)
}

/// A host name in lower case.
pub fn host(text: &str) -> Result<(), String> {
    check(Text::Host, text)
}

/// `package.Service`.
pub fn grpc_service(text: &str) -> Result<(), String> {
    check(Text::GrpcService, text)
}

/// `package.Service/Method`.
pub fn method(text: &str) -> Result<(), String> {
    check(Text::Method, text)
}

/// The name of a header that is matched, in lower case.
pub fn header_name(text: &str) -> Result<(), String> {
    check(Text::HeaderName, text)
}

/// The name of a header that is changed, in lower case: not one that belongs to the protocol.
pub fn changed_header(text: &str) -> Result<(), String> {
    check(Text::ChangedHeader, text)
}

/// The name of a header that a rule of authorization goes by, in lower case: one that reaches the app as it came.
pub fn rule_header(text: &str) -> Result<(), String> {
    check(Text::RuleHeader, text)
}

/// The value of a header.
pub fn header_value(text: &str) -> Result<(), String> {
    check(Text::HeaderValue, text)
}

/// A key or a value of a label.
pub fn label(text: &str) -> Result<(), String> {
    check(Text::Label, text)
}

/// `name:port`, a name to resolve.
pub fn dns_target(text: &str) -> Result<(), String> {
    check(Text::DnsTarget, text)
}

fn check(form: Text, text: &str) -> Result<(), String> {
    form.check(text).map_err(|Wrong { problem, hint }| match hint {
        Some(hint) => format!("{problem}; {hint}"),
        None => problem,
    })
}
