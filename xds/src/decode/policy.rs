//! What holds for a route's calls: the fields of Route and RouteAction as `Policy`.

use config::check;
use config::model::{Deadline, HeaderChanges};

use crate::decode::at::{At, understood};
use crate::pb::core::HeaderValueOption;
use crate::pb::core::header_value_option::HeaderAppendAction;
use crate::pb::protobuf;
use crate::pb::route::route_action::MaxStreamDuration;
use crate::private::Reader;
use crate::refusal::Refusal;
use crate::wire::read_limit;

/// The deadline of `timeout` and `max_stream_duration`.
///
/// `timeout` holds for every call, whatever it asks for; so does `max_stream_duration` where nothing is said of the calls'
/// own deadlines. No `timeout` is no limit here, as in gRPC; Envoy's own default of 15 s would cut streams.
pub(crate) fn deadline(
    timeout: Option<&protobuf::Duration>,
    stream: Option<&MaxStreamDuration>,
    private: &mut Reader<'_>,
    at: &At<'_>,
) -> Result<Deadline, Refusal> {
    let timeout = read_limit(timeout, &at.field("timeout"))?;
    let mut deadline = Deadline {
        default: timeout,
        max: timeout,
        shed_below_median: private.flag("shed_below_median")?,
        inherit: private.flag("inherit")?,
    };
    let Some(stream) = stream else { return Ok(deadline) };
    let below = at.field("max_stream_duration");
    understood! {
        stream => MaxStreamDuration, &below;
        take { max_stream_duration, grpc_timeout_header_max }
        ignore {}
        refuse "nothing is taken off a call's deadline" { grpc_timeout_header_offset }
    }
    if timeout.is_some() {
        return Err(at
            .field("timeout")
            .refuse("there is `max_stream_duration` too; write `timeout: 0s`, or one of them"));
    }
    let whole = read_limit(max_stream_duration.as_ref(), &below.field("max_stream_duration"))?;
    deadline.default = whole;
    deadline.max = match grpc_timeout_header_max {
        None => whole,
        Some(max) => read_limit(Some(max), &below.field("grpc_timeout_header_max"))?,
    };
    if let (Some(default), Some(max)) = (deadline.default, deadline.max)
        && default > max
    {
        let why = "it is longer than `grpc_timeout_header_max`, the most that a call may have";
        return Err(below.field("max_stream_duration").refuse(why));
    }
    Ok(deadline)
}

/// The changes of one direction; `add` and `remove` are the names of the two fields.
pub(crate) fn changes(
    options: &[HeaderValueOption],
    remove: &[String],
    (add, removed): (&str, &str),
    at: &At<'_>,
) -> Result<HeaderChanges, Refusal> {
    let mut changes = HeaderChanges::default();
    for (i, option) in options.iter().enumerate() {
        change(option, &mut changes, &at.item(add, i))?;
    }
    for (i, name) in remove.iter().enumerate() {
        let name = name.to_ascii_lowercase();
        check::changed_header(&name).map_err(|why| at.item(removed, i).refuse(why))?;
        changes.remove.push(name);
    }
    Ok(changes)
}

fn change(option: &HeaderValueOption, changes: &mut HeaderChanges, at: &At<'_>) -> Result<(), Refusal> {
    #[allow(deprecated)]
    let HeaderValueOption { header, append, append_action, keep_empty_value } = option;
    let Some(header) = header else { return Err(at.field("header").refuse("there is no header")) };
    let name = header.key.to_ascii_lowercase();
    check::changed_header(&name).map_err(|why| at.field("header.key").refuse(why))?;
    let value = match header.raw_value.is_empty() {
        true => header.value.clone(),
        false => String::from_utf8(header.raw_value.clone())
            .map_err(|_| at.field("header.raw_value").refuse("the value of a header is visible ASCII"))?,
    };
    let Some(value) = literal(&value) else {
        let why = "nothing is put in between two `%`; write `%%` for a percent sign";
        return Err(at.field("header.value").refuse(why));
    };
    check::header_value(&value).map_err(|why| at.field("header.value").refuse(why))?;
    if value.is_empty() && !keep_empty_value {
        return Err(at
            .field("keep_empty_value")
            .refuse("the value is empty, and is not to be kept; leave the header out"));
    }
    let adds = match (append, HeaderAppendAction::try_from(*append_action)) {
        (Some(append), Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => append.value,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => true,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => false,
        (Some(_), _) => {
            return Err(at.field("append").refuse("there is `append_action` too; write one of them"));
        }
        (None, _) => {
            let why = "headers are added (APPEND_IF_EXISTS_OR_ADD) or set (OVERWRITE_IF_EXISTS_OR_ADD), whatever is there";
            return Err(at.field("append_action").refuse(why));
        }
    };
    if adds {
        changes.add.push((name, value));
        return Ok(());
    }
    if changes.add.iter().any(|(added, _)| *added == name) {
        let why = format!("`{name}` is set after it was added to; headers are set first");
        return Err(at.refuse(why));
    }
    changes.set.push((name, value));
    Ok(())
}

/// A value in which every `%` stands twice, as it is meant.
fn literal(value: &str) -> Option<String> {
    let plain = value.replace("%%", "\0");
    (!plain.contains('%') && !value.contains('\0')).then(|| plain.replace('\0', "%"))
}
