//! The fault matrix: every fault of an attempt, by what of the request had been sent, by the kind of call, by what the
//! policy says of it, by the rule that commits. A cell is one call to a service of its own. Its first attempt meets the
//! fault, the second one an endpoint that answers well; what must come of it is a function of the cell, written from
//! gRFC A6 and `docs/retries.md` ([`expect::expect`]).

#[path = "../pair/mod.rs"]
mod pair;

mod cell;
mod expect;
mod run;

use std::collections::BTreeMap;

use crate::cell::{Cell, FAULTS, all};
use crate::expect::expect;
use crate::pair::Site;

#[tokio::test]
async fn each_cell_comes_to_the_attempts_the_status_and_the_duplicates_that_its_rule_says() {
    let site = Site::new();
    let (mut ran, mut excluded) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    let mut wrong = Vec::new();
    for fault in FAULTS {
        let mut cells = Vec::new();
        for cell in all().filter(|cell| cell.fault == fault) {
            match cell.excluded() {
                Some(rule) => *excluded.entry(rule).or_default() += 1,
                None => cells.push(cell),
            }
        }
        for cell in &cells {
            *ran.entry(expect(cell).rule).or_default() += 1;
        }
        wrong.extend(run::run(&site, &cells).await);
    }
    let (run, out) = (ran.values().sum::<usize>(), excluded.values().sum::<usize>());
    println!("{run} cells ran: {ran:#?}\n{out} cells were excluded: {excluded:#?}");
    assert_eq!(run + out, Cell::PRODUCT);
    assert!(wrong.is_empty(), "{} of {run} cells went wrong:\n{}", wrong.len(), wrong.join("\n"));
}
