//! Control planes that talk nonsense, too much, too slowly, or not at all.

use std::time::{Duration, Instant};

use bench::ads::{Ads, Manner, Raw, Resource};
use bench::wait::{until, within};
use h2::Reason;
use xds::Kind;

use crate::mesh::{Plant, mesh_of};
use crate::plane::{plane, resources};
use crate::trio::{FOUND_AGAIN, Trio};

/// Times that a control plane does the same again, after each new stream.
const ROUNDS: usize = 2;

/// Three sidecars that call `one` by what a scripted control plane says.
async fn driven() -> (Plant, Ads, Trio) {
    let (plant, ads) = (Plant::new().await, plane(&mesh_of(&[], "")).await);
    let mut trio = Trio::start(&plant, &format!("http://{}", ads.addr)).await;
    ads.set(resources(&trio.mesh(&["one"])));
    trio.under_calls("one").await;
    (plant, ads, trio)
}

/// An answer with one resource of these bytes.
fn answer(kind: Kind, version: &str, value: &[u8]) -> Vec<u8> {
    let [type_url, name, version] = [kind.type_url(), "echo.shop", version].map(str::to_owned);
    Resource { type_url, name, version, value: value.to_vec() }.answer()
}

/// Sends something on the streams of all three sidecars, again and again when they have come back.
async fn repeat(ads: &Ads, trio: &Trio, raw: &Raw) {
    for _ in 0..ROUNDS {
        trio.are_connected().await;
        let streams = ads.streams();
        ads.send(raw.clone());
        let back = until("they come back", async || ads.streams() >= streams + 3);
        within(FOUND_AGAIN, "all come back", back).await;
    }
}

#[tokio::test]
async fn nobody_notices_garbage_and_what_it_was_is_told() {
    let (_plant, ads, trio) = driven().await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut bytes = |length| std::iter::repeat_with(|| random.u8(..)).take(length).collect::<Vec<u8>>();
    for kind in [Kind::Listener, Kind::Routes, Kind::Cluster, Kind::Endpoints] {
        let (refused, before) =
            ("outrigger_control_refused_resources", trio.control().await["nacks"].clone());
        ads.send(Raw::Message(answer(kind, "garbage", &[&[0xff; 9][..], &bytes(200)].concat())));
        until(format!("garbage is refused as {kind:?}"), async || {
            trio.value(refused, &[]).await > before.as_array().map_or(0.0, |known| known.len() as f64)
        })
        .await;
    }
    trio.stay_on("one").await;
    assert!(ads.seen().iter().any(|seen| seen.error.is_some()), "it is told what was refused");
    // Not even an answer: messages that are none, and bytes that are no messages.
    repeat(&ads, &trio, &Raw::Message(vec![0xff; 1_000])).await;
    repeat(&ads, &trio, &Raw::Bytes([&[7][..], &bytes(5_000)].concat())).await;
    trio.lose_it("garbage", "no protobuf").await;
    trio.lose_it("garbage", "a compressed answer").await;
    trio.stay_on("one").await;
    ads.set(resources(&trio.mesh(&["two"])));
    trio.move_to("two").await;
    trio.nobody_noticed("garbage", 6).await;
}

#[tokio::test]
async fn nobody_notices_answers_of_a_hundred_megabytes() {
    let (_plant, ads, trio) = driven().await;
    repeat(&ads, &trio, &Raw::Huge(100 << 20)).await;
    trio.lose_it("too_large", "an answer of 104857600 bytes").await;
    // As long as one may be, and nothing in it.
    repeat(&ads, &trio, &Raw::Huge(15 << 20)).await;
    trio.lose_it("garbage", "no protobuf").await;
    trio.stay_on("one").await;
    ads.set(resources(&trio.mesh(&["two"])));
    trio.move_to("two").await;
    trio.nobody_noticed("100 MB", 2).await;
}

#[tokio::test]
async fn nobody_notices_an_answer_of_one_byte_a_second_and_it_is_given_up_after_a_minute() {
    let (_plant, ads, trio) = driven().await;
    ads.send(Raw::Slow(vec![0; 600], Duration::from_secs(1)));
    trio.stay_on("one").await;
    ads.set(resources(&trio.mesh(&["two"])));
    trio.lose_it_within(2 * FOUND_AGAIN, "slow", "an answer does not get on").await;
    trio.move_to("two").await;
    trio.nobody_noticed("one byte a second", 1).await;
}

#[tokio::test]
async fn nobody_notices_ten_thousand_updates_a_second_and_the_last_one_counts() {
    let (_plant, ads, trio) = driven().await;
    let endpoints = |at: &[&str]| {
        let mesh = resources(&trio.mesh(at));
        let one = mesh
            .into_iter()
            .find(|one| one.type_url == Kind::Endpoints.type_url() && one.name == "echo.shop");
        one.expect("the endpoints of echo").value
    };
    let (one, both) = (endpoints(&["one"]), endpoints(&["one", "two"]));
    let messages: Vec<Vec<u8>> = (0..1_000)
        .map(|number| {
            let value = if number % 2 == 0 { &both } else { &one };
            answer(Kind::Endpoints, &number.to_string(), value)
        })
        .collect();
    let answers = "outrigger_control_answers_total";
    let before = trio.value(answers, &[]).await;
    let (lasting, began, cpu) = (Duration::from_secs(5), Instant::now(), trio.caller.cpu().expect("it runs"));
    ads.send(Raw::Flood { messages: messages.into(), per_second: 10_000, lasting });
    until("it is over for all three", async || ads.floods_over() == 3).await;
    ads.set(resources(&trio.mesh(&["two"])));
    trio.move_to("two").await;
    let read = trio.value(answers, &[]).await - before;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), trio.caller.cpu().expect("it runs") - cpu);
    println!("of 50,000 updates {read} were read in {seconds:.1} s, with {cpu:?} of CPU");
    // 500 at once, and then 200 a second.
    assert!((100.0..=501.0 + 200.0 * seconds).contains(&read), "{read} in {seconds} s");
    trio.nobody_noticed("10,000 updates a second", 0).await;
}

#[tokio::test]
async fn nobody_notices_that_each_connection_ends_after_one_answer() {
    let (_plant, ads, trio) = driven().await;
    ads.behave(Manner::Farewell(Reason::NO_ERROR));
    ads.hang_up();
    let streams = ads.streams();
    within(FOUND_AGAIN, "they come back again and again", async {
        while ads.streams() < streams + 9 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Whether GOAWAY or the end of the socket is seen first, nobody can say.
    trio.lose_it("closed", "control plane").await;
    trio.stay_on("one").await;
    ads.behave(Manner::Well);
    ads.set(resources(&trio.mesh(&["two"])));
    trio.move_to("two").await;
    trio.nobody_noticed("GOAWAY after each answer", 1).await;
}

#[tokio::test]
async fn nobody_notices_that_connections_are_accepted_and_nothing_comes() {
    let (_plant, ads, trio) = driven().await;
    ads.behave(Manner::Deaf);
    ads.hang_up();
    trio.stay_on("one").await;
    trio.lose_it("hung", "it does not answer within").await;
    trio.stay_on("one").await;
    ads.behave(Manner::Well);
    ads.set(resources(&trio.mesh(&["two"])));
    trio.move_to("two").await;
    trio.nobody_noticed("accepted and left alone", 2).await;
}
