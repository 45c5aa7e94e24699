//! The apps as processes: their first line, their counts, and how they end.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use outrigger_examples::ledger::{Audit, audit};
use serde_json::Value;

struct App {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    listen: String,
}

impl App {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-store"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("our own binary");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut app = Self { child, lines, listen: String::new() };
        app.listen = app.line()["listen"].as_str().expect("an address").to_owned();
        app
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).expect("JSON")
    }

    /// `NAME=URL`, as `--at` wants it.
    fn at(&self, name: &str) -> String {
        format!("{name}=http://{}", self.listen)
    }

    fn terminate(&self) {
        // SAFETY: a plain system call on a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) }, 0);
    }

    /// Waits for the end and returns the exit code and the last line that is left to read.
    fn end(&mut self) -> (Option<i32>, Option<Value>) {
        let last = self.lines.by_ref().map_while(Result::ok).last();
        let code = self.child.wait().expect("a status").code();
        (code, last.map(|line| serde_json::from_str(&line).expect("JSON")))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // It fails when the process has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn count(line: &Value, method: &str) -> (u64, u64, u64) {
    let calls = line["calls"].as_array().expect("calls");
    let call = calls.iter().find(|call| call["method"] == method).expect("the method");
    let number = |key: &str| call[key].as_u64().expect("a number");
    (number("started"), number("ok"), number("open"))
}

#[test]
fn a_sigterm_ends_an_app_with_0() {
    let mut users = App::start(&["users"]);
    assert!(!users.listen.ends_with(":0"));
    users.terminate();
    let (code, last) = users.end();
    assert_eq!((code, last), (Some(0), None));
}

#[test]
fn a_stop_on_stdin_ends_the_shopping_and_both_callers_account_for_it() {
    let (users, products, payments) =
        (App::start(&["users"]), App::start(&["products"]), App::start(&["payments"]));
    let mut orders = App::start(&["orders", "--at", &payments.at("payments")]);
    let at = [users.at("users"), products.at("products"), orders.at("orders")];
    let mut storefront = App::start(&[
        "storefront",
        "--at",
        &at[0],
        "--at",
        &at[1],
        "--at",
        &at[2],
        "--shoppers",
        "2",
        "--rate",
        "500",
    ]);
    while storefront.line()["calls"].as_array().expect("calls").len() < 7 {}
    storefront.child.stdin.take().expect("piped").write_all(b"stop\n").expect("a reader");
    let (code, last) = storefront.end();
    let last = last.expect("a last line");
    assert_eq!((code, &last["final"]), (Some(0), &Value::Bool(true)));
    let (started, ok, open) = count(&last, "shop.OrderService/CreateOrder");
    assert_eq!((ok, open), (started, 0));

    orders.terminate();
    let (code, last) = orders.end();
    assert_eq!(code, Some(0));
    assert_eq!(count(&last.expect("a last line"), "shop.PaymentService/Charge"), (started, ok, 0));
}

#[test]
fn a_charge_by_itself_tells_the_code() {
    let payments = App::start(&["payments"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-store"));
    let output = command.args(["charge", "--at", &payments.at("payments")]).output().expect("our own binary");
    let line: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((line["code"].as_str(), output.status.code()), (Some("OK"), Some(0)));
}

#[test]
fn replicas_of_payments_that_share_a_ledger_charge_once_though_one_is_killed() {
    let folder = std::env::temp_dir().join(format!("outrigger-ledger-{}", std::process::id()));
    let ledger = folder.to_string_lossy();
    let mut one = App::start(&["payments", "--ledger", &ledger]);
    let other = App::start(&["payments", "--ledger", &ledger]);
    // The key is always the same.
    for payments in [&one, &other, &one] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-store"));
        let output =
            command.args(["charge", "--at", &payments.at("payments")]).output().expect("our own binary");
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"OK\""), "{output:?}");
    }
    one.child.kill().expect("it runs");
    let again = App::start(&["payments", "--ledger", &ledger]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-store"));
    assert!(
        command.args(["charge", "--at", &again.at("payments")]).status().expect("our own binary").success()
    );
    let audited = audit(&folder).expect("a book");
    std::fs::remove_dir_all(&folder).expect("a folder");
    assert_eq!(audited, Audit { charged: 1, twice: 0, repeated: 3 });
}

#[test]
fn bad_arguments_exit_2_and_say_what_would_be_right() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-store"));
    let output = command.arg("shoes").output().expect("our own binary");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(stderr.starts_with("`shoes` is no app of the store\nusage: "), "{stderr}");
}
