//! A second opinion on the Workload API that our client is tested against: the client library `spiffe`, which knows nothing of ours.

use std::future::poll_fn;

use bench::certs::Ca;
use bench::spiffe::{Svid, WorkloadApi};
use bench::wait::soon;
use futures_core::Stream;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};

const ID: &str = "spiffe://cluster.local/ns/shop/sa/orders";

#[tokio::test]
async fn the_library_spiffe_understands_the_workload_api_of_the_tests() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Ca::new("cluster.local"), Ca::new("cluster.local"));
    let first = Svid::new(ID, &one.leaf(ID), &[&one]);
    let api = WorkloadApi::start(&folder.path().join("agent.sock"), Some(vec![first.clone()])).unwrap();
    let client = WorkloadApiClient::connect_to(format!("unix://{}", api.socket.display())).await.unwrap();
    let mut told = Box::pin(client.stream_x509_contexts().await.unwrap());
    is(&next(&mut told).await.unwrap(), &first, 1);

    let second = Svid { hint: "orders".to_owned(), ..Svid::new(ID, &two.leaf(ID), &[&two, &one]) };
    api.tell(Some(vec![second.clone()]));
    is(&next(&mut told).await.unwrap(), &second, 2);

    api.tell(None);
    let ended = next(&mut told).await.unwrap_err();
    assert!(matches!(ended, WorkloadApiError::NoIdentityIssued), "{ended:?}");
}

async fn next(
    told: &mut (impl Stream<Item = Result<X509Context, WorkloadApiError>> + Unpin),
) -> Result<X509Context, WorkloadApiError> {
    let next = poll_fn(|context| std::pin::Pin::new(&mut *told).poll_next(context));
    soon("what the Workload API tells", next).await.expect("the stream goes on")
}

/// That it is the identity that was told, with so many roots.
fn is(context: &X509Context, told: &Svid, roots: usize) {
    let svid = context.default_svid().expect("an identity");
    assert_eq!(svid.spiffe_id().to_string(), ID);
    assert_eq!(svid.leaf().as_ref(), told.x509_svid);
    assert_eq!(svid.private_key().as_ref(), told.x509_svid_key);
    assert_eq!(svid.hint().unwrap_or_default(), told.hint);
    let bundle = context.bundle_set().get(svid.spiffe_id().trust_domain()).expect("a bundle");
    let der: Vec<u8> = bundle.authorities().iter().flat_map(|root| root.as_ref().to_vec()).collect();
    assert_eq!((bundle.authorities().len(), der), (roots, told.bundle.clone()));
}
