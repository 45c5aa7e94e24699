//! What the shoppers of one store saw, and the two stores side by side.

use std::collections::{BTreeMap, BTreeSet};

use examples::ledger::Audit;
use serde_json::Value;

/// The stream that lasts as long as a delivery.
const WATCH: &str = "shop.OrderService/WatchOrder";

/// The call that charges.
const ORDER: &str = "shop.OrderService/CreateOrder";

/// What the shoppers of a store saw so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Calls that were begun.
    pub(crate) calls: u64,
    /// Calls that failed, by code; cut streams are not among them.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Watches that were begun; one that was cut is taken up by a further one.
    pub(crate) watches: u64,
    /// Streams that ended before their end after they had brought messages.
    pub(crate) cut: u64,
    /// How long the slowest call took; watches take as long as a delivery, and do not count.
    pub(crate) slowest_ms: u64,
    /// Orders that were made.
    pub(crate) orders: u64,
    /// What failures said, as many as the shoppers kept.
    pub(crate) faults: Vec<String>,
}

impl Tally {
    /// Reads a line that the storefront printed.
    pub(crate) fn read(line: &Value) -> Self {
        let mut tally = Self::default();
        for entry in line["calls"].as_array().into_iter().flatten() {
            let number = |key: &str| entry[key].as_u64().unwrap_or_default();
            tally.calls += number("started");
            for (code, count) in entry["failed"].as_object().into_iter().flatten() {
                let cut = entry["cut"][code].as_u64().unwrap_or_default();
                tally.cut += cut;
                let failed = count.as_u64().unwrap_or_default().saturating_sub(cut);
                if failed > 0 {
                    *tally.failed.entry(code.clone()).or_default() += failed;
                }
            }
            if entry["method"] == WATCH {
                tally.watches += number("started");
            } else {
                tally.slowest_ms = tally.slowest_ms.max(number("slowest_ms"));
            }
            if entry["method"] == ORDER {
                tally.orders += number("ok");
            }
        }
        let faults = line["faults"].as_array().into_iter().flatten();
        tally.faults = faults.filter_map(|fault| fault.as_str().map(str::to_owned)).collect();
        tally
    }

    /// All calls that failed.
    pub(crate) fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// In a few words.
    pub(crate) fn short(&self) -> String {
        format!("{:>5} calls {:>4} failed", self.calls, self.failed_total())
    }
}

/// The table at the end: a name, the mesh, and the store without one.
pub(crate) fn table(mesh: (&Tally, Audit), plain: (&Tally, Audit)) -> Vec<String> {
    let row = |name: &str, mesh: &dyn ToString, plain: &dyn ToString| {
        format!("{name:<38}{:>9}{:>9}", mesh.to_string(), plain.to_string())
    };
    let ((mesh, mesh_book), (plain, plain_book)) = (mesh, plain);
    let mut rows = vec![
        row("what the shoppers saw", &"mesh", &"plain"),
        row("calls", &mesh.calls, &plain.calls),
        row("failed", &mesh.failed_total(), &plain.failed_total()),
    ];
    let codes: BTreeSet<_> = mesh.failed.keys().chain(plain.failed.keys()).collect();
    for code in codes {
        let count = |tally: &Tally| tally.failed.get(code).copied().unwrap_or_default();
        rows.push(row(&format!("  {code}"), &count(mesh), &count(plain)));
    }
    // Killed between taking the key and charging: see the ledger.
    let unpaid = |tally: &Tally, book: Audit| book.charged.saturating_sub(tally.orders);
    rows.extend([
        row("watches of orders (streams)", &mesh.watches, &plain.watches),
        row("  cut in the middle", &mesh.cut, &plain.cut),
        row("slowest call", &seconds(mesh), &seconds(plain)),
        row("orders made", &mesh.orders, &plain.orders),
        row("charged twice", &mesh_book.twice, &plain_book.twice),
        row("charged, but the order failed", &unpaid(mesh, mesh_book), &unpaid(plain, plain_book)),
        row("charges asked for again, made once", &mesh_book.repeated, &plain_book.repeated),
    ]);
    rows
}

fn seconds(tally: &Tally) -> String {
    format!("{}.{:02}s", tally.slowest_ms / 1_000, tally.slowest_ms % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line() -> Value {
        json!({"faults": ["WatchOrder ended Unavailable"], "calls": [
            {"service": "orders.shop", "method": WATCH, "started": 10, "ok": 6, "open": 0, "slowest_ms": 9_000,
             "failed": {"Unavailable": 3, "Internal": 1}, "cut": {"Unavailable": 2, "Internal": 1}},
            {"service": "orders.shop", "method": ORDER, "started": 7, "ok": 5, "open": 1, "slowest_ms": 1_234,
             "failed": {"DeadlineExceeded": 1}, "cut": {}},
        ]})
    }

    #[test]
    fn a_cut_stream_is_no_failed_call_and_a_watch_is_not_slow() {
        let failed = [("DeadlineExceeded", 1), ("Unavailable", 1)];
        let tally = Tally::read(&line());
        assert_eq!(tally.failed, failed.map(|(code, count)| (code.to_owned(), count)).into());
        assert_eq!((tally.calls, tally.failed_total()), (17, 2));
        assert_eq!((tally.watches, tally.cut), (10, 3));
        assert_eq!((tally.slowest_ms, tally.orders, tally.faults.len()), (1_234, 5, 1));
        assert_eq!(tally.short(), "   17 calls    2 failed");
    }

    #[test]
    fn the_table_shows_both_stores_side_by_side() {
        let mesh = Tally { calls: 20, orders: 6, slowest_ms: 50, ..Tally::default() };
        let book = |charged| Audit { charged, twice: 0, repeated: 2 };
        let rows = table((&mesh, book(6)), (&Tally::read(&line()), book(7)));
        let cells: Vec<Vec<&str>> = rows.iter().map(|row| row.split_whitespace().collect()).collect();
        let ends: Vec<_> =
            cells.iter().map(|cells| [cells[cells.len() - 2], cells[cells.len() - 1]]).collect();
        let expected = [
            ["mesh", "plain"],
            ["20", "17"],
            ["0", "2"],
            ["0", "1"],
            ["0", "1"],
            ["0", "10"],
            ["0", "3"],
            ["0.05s", "1.23s"],
            ["6", "5"],
            ["0", "0"],
            ["0", "2"],
            ["2", "2"],
        ];
        assert_eq!(ends, expected);
        assert_eq!(cells[3][0], "DeadlineExceeded");
    }
}
