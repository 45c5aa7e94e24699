//! `shop.ProductService`: what the store sells.

use std::vec::IntoIter;

use tonic::{Request, Response, Status};

use crate::pb::product_service_server::ProductService;
use crate::pb::{GetProductRequest, ListProductsRequest, Product};

/// Name and price in cents; the first has the id 1.
const CATALOGUE: [(&str, i64); 10] = [
    ("paddle", 8_900),
    ("dry bag", 3_450),
    ("life vest", 12_000),
    ("spray skirt", 9_950),
    ("bow line", 1_290),
    ("bailer", 990),
    ("compass", 4_500),
    ("sail", 31_000),
    ("outrigger float", 54_000),
    ("spare rope", 1_750),
];

/// The catalogue; it never changes, so that replicas agree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Products;

/// How many products there are; ids are 1 to this.
pub fn products_total() -> i32 {
    i32::try_from(CATALOGUE.len()).expect("the catalogue is short")
}

#[tonic::async_trait]
impl ProductService for Products {
    type ListProductsStream = tokio_stream::Iter<IntoIter<Result<Product, Status>>>;

    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<Self::ListProductsStream>, Status> {
        let contains = request.into_inner().contains;
        let found = (1..=products_total()).filter_map(product).filter(|p| p.name.contains(&contains));
        Ok(Response::new(tokio_stream::iter(found.map(Ok).collect::<Vec<_>>())))
    }

    async fn get_product(&self, request: Request<GetProductRequest>) -> Result<Response<Product>, Status> {
        let id = request.into_inner().id;
        product(id).map(Response::new).ok_or_else(|| Status::not_found(format!("no product has the id {id}")))
    }
}

fn product(id: i32) -> Option<Product> {
    let position = usize::try_from(id).ok()?.checked_sub(1)?;
    let (name, price_cents) = *CATALOGUE.get(position)?;
    Some(Product { id, name: name.to_owned(), price_cents })
}
