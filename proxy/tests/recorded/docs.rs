//! `docs/tracing.md` and running sidecars name the same attributes and fields: none that is not documented, and none
//! documented that nobody shows.

use std::collections::BTreeSet;
use std::path::Path;

use ::http::Method;
use bench::call::CallSpec;
use bench::wait::{soon, until};

use crate::pair::{BIDI, ECHO, metric};
use crate::{Row, call, line};

/// Logs every call, and such as go on.
const OPEN: &str = "log: {access: {streams: 50ms}}";

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tracing.md");
    std::fs::read_to_string(path).expect("docs/tracing.md")
}

/// Every name in the first column of the table with this head.
fn first_column(page: &str, head: &str) -> BTreeSet<String> {
    let rows = page.lines().skip_while(|line| !line.starts_with(&format!("| {head} |"))).skip(2);
    let cells = rows.take_while(|row| row.starts_with('|')).filter_map(|row| row.split('|').nth(1));
    cells.flat_map(quoted).collect()
}

/// Every text between backquotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Calls of every kind, whose spans and lines say all that there is to say.
async fn calls_of_every_kind(row: &Row) {
    let client = row.client().await;
    call(&client, &[]).await;
    let mut open = client.call(CallSpec::new(ECHO, BIDI)).await.expect("a call");
    open.send(b"ping").await.expect("sent");
    soon("an echo", open.recv()).await.expect("an echo");
    until("the open call is logged", async || {
        metric(&row.caller, "outrigger_log_lines_total", &[]).await >= 2
    })
    .await;
    assert!(soon("the end", open.finish()).await.is_ok());
    client.unary("nobody.shop", BIDI, b"ping").await.expect("a call");
    row.ask(Method::GET, "/things/1").await;
    row.ask(Method::GET, "/broken").await;
    row.ask(Method::GET, "/silent").await;
}

#[tokio::test]
async fn every_attribute_of_a_span_is_documented_and_the_other_way_round() {
    let row = Row::start(OPEN).await;
    calls_of_every_kind(&row).await;
    until("all spans", async || row.collector.spans().len() >= 11).await;
    let spans = row.collector.spans();
    let shown: BTreeSet<String> = spans.iter().flat_map(|span| span.attributes.keys().cloned()).collect();
    assert_eq!(first_column(&page(), "attribute"), shown, "the table of attributes");
    let events: Vec<_> = spans.iter().flat_map(|span| &span.events).collect();
    assert!(events.iter().all(|(name, _)| name == "attempt"));
    let shown: BTreeSet<String> = events.into_iter().flat_map(|(_, event)| event.keys().cloned()).collect();
    let page = page();
    let paragraph = page.split("\n\n").find(|text| text.starts_with("A span has an event `attempt`"));
    let mut documented = quoted(paragraph.expect("such a paragraph"));
    documented.retain(|word| word.starts_with("outrigger."));
    assert_eq!(documented, shown, "what is said of the event");
}

#[tokio::test]
async fn every_field_of_a_line_is_documented_and_the_other_way_round() {
    let mut row = Row::start(OPEN).await;
    calls_of_every_kind(&row).await;
    let mut shown = BTreeSet::new();
    for sidecar in [&mut row.caller, &mut row.callee] {
        let mut ends = 0;
        while ends < 5 {
            let said = line(sidecar).await;
            ends += u32::from(said["event"] == "end");
            shown.extend(said.as_object().expect("an object").keys().cloned());
        }
    }
    assert_eq!(first_column(&page(), "field"), shown, "the table of fields");
}
