//! What is asked of callers is read whole or refused: a condition that is passed over would let in too many.

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::google::protobuf::Any;
use outrigger_xds::{Audience, Client, Kind, Own, decode, encode};
use prost::Message;

const MESH: &str = "\
version: 1
services:
  - name: orders
    namespace: shop
    inbound: {authorization: [{allow: {methods: [shop.Orders/Get]}}]}
";
const NAME: &str = "inbound/orders.shop";

/// What becomes of our own listener once its routes have been changed: the path of the refusal, or nothing.
fn refused(change: impl FnOnce(&mut RouteConfiguration)) -> Option<String> {
    let mesh = config::parse_mesh(config::Source { name: "mesh.yaml", text: MESH }).expect("a mesh");
    let audience = Audience { client: Client::Outrigger, certificates: None };
    let resources = encode::service(&mesh, 0, &audience);
    let ours = resources.iter().find(|one| one.name == NAME).expect("the listener");
    let mut listener = Listener::decode(&ours.bytes[..]).expect("a listener");
    let filter = &mut listener.filter_chains[0].filters[0];
    let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else { panic!("{filter:?}") };
    let mut manager = HttpConnectionManager::decode(&any.value[..]).expect("a manager");
    let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else { panic!("no routes") };
    change(routes);
    any.value = manager.encode_to_vec();
    let own = Own { trust_domain: "own.local".into(), namespace: "own".into() };
    decode::decode(Kind::Listener, NAME, &listener.encode_to_vec(), &own).err().map(|refusal| refusal.path)
}

fn host(routes: &mut RouteConfiguration) -> &mut VirtualHost {
    &mut routes.virtual_hosts[0]
}

fn route(routes: &mut RouteConfiguration) -> &mut Route {
    &mut host(routes).routes[0]
}

#[test]
fn routes_that_are_for_some_calls_only_are_refused() {
    assert_eq!(refused(|_| {}), None);
    assert_eq!(refused(|routes| route(routes).name = "any".into()), None, "a name says nothing");
    let path = Some("filter_chains[0].filters[0].typed_config.route_config.virtual_hosts".to_owned());
    let prefix = |text: &str| Some(PathSpecifier::Prefix(text.to_owned()));
    let matches = |routes: &mut RouteConfiguration| route(routes).r#match.clone().expect("a match");
    assert_eq!(refused(|routes| routes.virtual_hosts.clear()), path, "nobody is let in");
    assert_eq!(refused(|routes| host(routes).routes.clear()), path);
    assert_eq!(refused(|routes| host(routes).domains = vec!["orders.shop".into()]), path);
    assert_eq!(refused(|routes| host(routes).require_tls = 2), path);
    assert_eq!(
        refused(|routes| drop(host(routes).typed_per_filter_config.insert("f".into(), Any::default()))),
        path
    );
    assert_eq!(
        refused(|routes| drop(routes.typed_per_filter_config.insert("f".into(), Any::default()))),
        path
    );
    assert_eq!(
        refused(|routes| {
            let mut some = matches(routes);
            some.path_specifier = prefix("/shop.Orders/");
            route(routes).r#match = Some(some);
        }),
        path
    );
    assert_eq!(
        refused(|routes| {
            let mut some = matches(routes);
            some.headers.push(Default::default());
            route(routes).r#match = Some(some);
        }),
        path
    );
    assert_eq!(refused(|routes| route(routes).action = None), path);
    assert_eq!(
        refused(|routes| {
            let again = route(routes).clone();
            host(routes).routes.push(again);
        }),
        path
    );
}
