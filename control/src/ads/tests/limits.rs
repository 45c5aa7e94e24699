//! What is asked for past the limits, and of types that are not served.

use crate::ads::tests::client::*;

#[test]
fn names_of_types_that_are_not_served_are_kept_up_to_a_number_over_all_types() {
    let mut client = Client::delta(&view(&[], None));
    let ask = |client: &mut Client, at: usize, names: usize| {
        client.send(Request::Delta(DeltaDiscoveryRequest {
            type_url: format!("type.googleapis.com/unknown.{at}"),
            resource_names_subscribe: (0..names).map(|n| format!("n{n}")).collect(),
            ..DeltaDiscoveryRequest::default()
        }));
    };
    ask(&mut client, 0, UNKNOWN_NAMES_MAX - 10);
    assert_eq!(client.counters.refused(Limit::Subscriptions), 0);
    ask(&mut client, 1, 11);
    assert_eq!(client.counters.refused(Limit::Subscriptions), 1);
    let gone = |client: &mut Client| client.hear().map(|told| told.gone.len());
    assert_eq!((gone(&mut client), gone(&mut client)), (Some(UNKNOWN_NAMES_MAX - 10), Some(10)));
    // What was answered for makes room.
    ask(&mut client, 1, 11);
    assert_eq!((gone(&mut client), gone(&mut client)), (Some(11), None));
}

#[test]
fn a_type_that_is_not_served_is_answered_and_the_others_go_on() {
    let mut client = Client::delta(&view(&[('c', "a", "1")], None));
    client.send(Request::Delta(DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        resource_names_subscribe: vec!["one".to_owned()],
        ..DeltaDiscoveryRequest::default()
    }));
    client.ask(Cluster, &[]);
    client.takes(Cluster, &["a=1"], &[]);
    assert_eq!(client.hear().unwrap().gone, ["one"]);
    client.hears_nothing();
    // Any number of them costs no more than a few answers.
    for n in 0..1_000 {
        client.send(Request::Delta(DeltaDiscoveryRequest {
            type_url: n.to_string(),
            ..DeltaDiscoveryRequest::default()
        }));
    }
    let mut answers = 0;
    while client.hear().is_some() {
        answers += 1;
    }
    assert!(answers < 20, "{answers}");
}

#[test]
fn too_many_names_end_the_stream_with_the_limit_in_words() {
    let one = view(&[], None);
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        let mut client = Client::new("outrigger", protocol, &one);
        let names: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let type_url = Endpoints.type_url().to_owned();
        let request = match protocol {
            Protocol::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url,
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            }),
            Protocol::Sotw => Request::Sotw(DiscoveryRequest {
                type_url,
                resource_names: names,
                ..DiscoveryRequest::default()
            }),
        };
        let ending = client.session.on_request(request, client.now, &client.counters).unwrap_err();
        assert_eq!(ending.code, Code::ResourceExhausted);
        assert!(ending.message.contains("limits.subscriptions"), "{}", ending.message);
        assert_eq!(client.counters.refused(Limit::Subscriptions), 1);
    }
}
