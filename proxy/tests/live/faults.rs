//! A changed file that cannot be used: nothing changes, and it is told in three places until it is mended.

use crate::kit::{Live, at, call, echo, echoes, landed, mesh, stream};

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_told_until_it_is_mended() {
    let one = echo("one").await;
    let good = mesh(&[at(&one)]);
    let live = Live::caller(&good, "").await;
    let client = live.client().await;
    let mut stream = stream(&client).await;
    let ten: String = (0..10).map(|number| format!("  - {{name: echo{number}, nmespace: shop}}\n")).collect();
    let half = &good[..good.len() - 30];
    let large = format!("{good}#{}", "x".repeat(2 << 20));
    let without_us = good.replace("name: caller", "name: other");
    let bad = [
        ("ten faults", format!("version: 1\nservices:\n{ten}"), "unknown key"),
        ("empty", String::new(), "mesh.yaml:1:1"),
        ("half of it", half.to_owned(), "mesh.yaml:"),
        ("too large", large, "mesh.yaml:1:1"),
        ("not ours", without_us, "has no service `caller`"),
        ("not text", "\u{0}\u{1}".to_owned(), "mesh.yaml:"),
    ];
    let mut rejected = 0;
    for (what, text, said) in bad {
        rejected += 1;
        live.replace("mesh.yaml", &text);
        let faults = live.rejected("mesh", rejected).await;
        assert!(faults.iter().any(|fault| fault.contains(said)), "{what}: {faults:?}");
        if what == "ten faults" {
            assert!(faults.len() >= 10, "all of them are told: {faults:?}");
        }
        for fault in &faults {
            live.says(fault).await;
        }
        assert_eq!(live.config().await["mesh"]["version"], 1, "{what}: what was in force stays so");
        assert_eq!(live.config().await["mesh"]["text"], good.as_str(), "{what}");
        assert_eq!(landed(&call(&client).await), "one");
        echoes(&mut stream).await;
        live.replace("mesh.yaml", &good);
        live.good("mesh").await;
    }
    std::fs::remove_file(live.dir.path().join("mesh.yaml")).expect("a file");
    let faults = live.rejected("mesh", rejected + 1).await;
    assert!(faults[0].contains("mesh.yaml: No such file"), "{faults:?}");
    // Whoever asks for a look is told again.
    live.sidecar.hup();
    live.rejected("mesh", rejected + 2).await;
    call(&client).await;
    let two = echo("two").await;
    live.replace("mesh.yaml", &mesh(&[at(&two)]));
    live.lands_on(&client, "two").await;
    live.good("mesh").await;
    echoes(&mut stream).await;
    assert!(stream.finish().await.is_ok());
}
