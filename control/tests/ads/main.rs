//! The ADS server over real sockets: many clients, slow ones, wrong ones, and who may announce endpoints.

mod clients;
mod hostile;
mod plane;
mod registration;
