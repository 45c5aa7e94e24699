//! What is too much is refused before it costs anything, and no file is a reason to fail otherwise.

use std::fmt::Write;

use outrigger_config::fault::FAULTS_TOLD_MAX;
use outrigger_config::{Faults, Source, check, parse_mesh};

const FILE_BYTES_MAX: usize = 1 << 20;
const HEAD: &str = "version: 1\nservices: []\n";

fn faults_of(text: &str) -> Faults {
    parse_mesh(Source { name: "mesh.yaml", text }).unwrap_err()
}

fn only_problem(text: &str) -> String {
    let faults = faults_of(text);
    assert_eq!(faults.told().len(), 1, "{faults}");
    faults.told()[0].problem.clone()
}

#[test]
fn a_file_of_a_mebibyte_is_read_and_one_byte_more_is_not() {
    let comment = |bytes: usize| format!("{HEAD}#{}", "x".repeat(bytes - HEAD.len() - 1));
    let largest = comment(FILE_BYTES_MAX);
    assert!(parse_mesh(Source { name: "mesh.yaml", text: &largest }).is_ok());
    assert_eq!(only_problem(&comment(FILE_BYTES_MAX + 1)), "the file has 1048577 bytes");
}

#[test]
fn sixty_four_levels_are_read_and_one_more_is_not() {
    let nested = |levels: usize| format!("x: {}{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let told = faults_of(&nested(64)).to_string();
    assert!(told.contains("unknown key `x`"), "{told}");
    let deep = "lists and mappings stand more than 64 levels deep";
    assert_eq!(only_problem(&nested(65)), deep);
    assert_eq!(only_problem(&format!("x: {}", "[".repeat(200))), deep);
    assert_eq!(only_problem(&format!("x: {}", "{a: ".repeat(200))), deep);
    let staircase: String = (0..1_000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert_eq!(only_problem(&staircase), deep);
}

#[test]
fn aliases_cannot_make_a_file_deeper() {
    let block = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let text = format!("x: &a {}\ny: {}*a{}", block(40), "[".repeat(40), "]".repeat(40));
    assert_eq!(only_problem(&text), "lists and mappings stand more than 64 levels deep");
}

#[test]
fn a_billion_laughs_are_refused() {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for i in 1..10 {
        let before = i - 1;
        let nine = vec![format!("*a{before}"); 9].join(", ");
        writeln!(text, "a{i}: &a{i} [{nine}]").unwrap();
    }
    assert_eq!(only_problem(&text), "the aliases stand for more than 10000 values");
}

#[test]
fn aliases_are_counted() {
    let aliases = |count: usize| format!("{HEAD}x: &a 1\ny: [{}]", vec!["*a"; count].join(", "));
    let told = faults_of(&aliases(256)).to_string();
    assert!(!told.contains("aliases"), "{told}");
    assert_eq!(only_problem(&aliases(257)), "more than 256 aliases in one file");
}

#[test]
fn faults_past_the_limit_are_counted() {
    let keys: String = (0..25_000).map(|i| format!("q{i}: 1\n")).collect();
    let faults = faults_of(&format!("{HEAD}{keys}"));
    assert_eq!(faults.told().len(), FAULTS_TOLD_MAX);
    assert_eq!(faults.more(), 25_000 - FAULTS_TOLD_MAX);
    assert!(faults.to_string().ends_with("\nand 24900 more"));
}

#[test]
fn regular_expressions_are_counted() {
    let routes = |count: usize| {
        let route = |i| format!("    - match: {{method: {{regex: a.B/C{i}}}}}\n");
        let routes: String = (0..count).map(route).collect();
        format!("version: 1\nservices:\n  - name: payments\n    routes:\n{routes}")
    };
    assert!(parse_mesh(Source { name: "mesh.yaml", text: &routes(1_000) }).is_ok());
    assert_eq!(only_problem(&routes(1_001)), "there are 1001 regular expressions");
}

#[test]
fn a_mesh_that_fills_the_file_is_read() {
    let service = |i| {
        format!(
            "  - {{name: s{i}, endpoints: ['10.0.0.1:15006'], routes: [{{backends: [{{service: s0}}]}}]}}\n"
        )
    };
    let services: String = (0..10_000).map(service).collect();
    let text = format!("version: 1\nservices:\n{services}");
    assert!(text.len() < FILE_BYTES_MAX);
    let mesh = parse_mesh(Source { name: "mesh.yaml", text: &text }).unwrap();
    assert_eq!(mesh.services.len(), 10_000);
    assert_eq!(mesh.services[9_999].routes[0].backends[0].service, 0);
    let over = format!("{text}  - {{name: s10000}}\n");
    assert_eq!(only_problem(&over), "there are 10001 services");
}

#[test]
fn no_cut_of_a_good_file_is_a_panic() {
    for text in [include_str!("good/shop.mesh.yaml"), include_str!("good/every_key.mesh.yaml")] {
        for (end, _) in text.char_indices() {
            let _ = check(&[Source { name: "cut.yaml", text: &text[..end] }]);
        }
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_fault() {
    for text in [format!("\u{feff}{HEAD}"), HEAD.replace('\n', "\r\n")] {
        let read = parse_mesh(Source { name: "mesh.yaml", text: &text });
        assert!(read.is_ok(), "{text:?}: {}", read.unwrap_err());
    }
}

#[test]
fn weights_come_to_what_thirty_two_bits_hold() {
    let service = |count: usize, route: &str| {
        let endpoint =
            |at: usize| format!("{{address: \"10.0.{}.{}:1\", weight: 1000000}}", at / 250, at % 250);
        let endpoints: Vec<String> = (0..count).map(endpoint).collect();
        format!("version: 1\nservices: [{{name: a, endpoints: [{}]{route}}}]\n", endpoints.join(", "))
    };
    assert!(parse_mesh(Source { name: "mesh.yaml", text: &service(4_000, "") }).is_ok());
    assert_eq!(only_problem(&service(4_001, "")), "the weights come to 4001000000");
    let backends = vec!["{service: a, weight: 1000000}"; 4_001].join(", ");
    let route = format!(", routes: [{{backends: [{backends}]}}]");
    assert_eq!(only_problem(&service(1, &route)), "the weights come to 4001000000");
}
