//! Retries and hedging (gRFC A6, `docs/retries.md`), promise by promise; what each fault of an attempt comes to is in the matrix.

#[path = "../pair/mod.rs"]
mod pair;

mod backoff;
mod bed;
mod commit;
mod ends;
mod figures;
mod hedging;
mod pushback;
mod replay;
mod soak;
mod two_hops;
mod where_to;
