//! The CA of a control plane: who gets a certificate and who does not, over real TLS, with roots that come and go.

mod issue;
mod kit;
mod openssl;
mod refuse;
mod roots;
mod trust;
