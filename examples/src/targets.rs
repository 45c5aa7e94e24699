//! Where the other services are: behind one address for all, or at an address each.

use std::collections::BTreeMap;

use tonic::transport::{Channel, Endpoint};

/// The namespace of the store, the second half of every name that it calls.
pub const NAMESPACE: &str = "shop";

/// The addresses of the services an app calls.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Takes calls to any service, told apart by `:authority`.
    pub mesh: Option<String>,
    /// Services with an address of their own, or several with commas between, by short name; they win over
    /// `mesh`.
    pub direct: BTreeMap<String, String>,
}

impl Targets {
    /// A channel to `service` (a short name such as `payments`); it connects with the first call. Several
    /// addresses share the calls as tonic has it by default (`Channel::balance_list`).
    ///
    /// The calls carry `:authority: payments.shop` wherever they are sent.
    ///
    /// # Errors
    /// When no address is known for the service, or an address is no `http://HOST:PORT`.
    pub fn channel(&self, service: &str) -> Result<Channel, String> {
        let Some(addresses) = self.direct.get(service).or(self.mesh.as_ref()) else {
            return Err(format!("no address for {service}: give --mesh URL or --at {service}=URL"));
        };
        let endpoints = addresses.split(',').map(|address| endpoint(service, address));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        Ok(match endpoints.as_slice() {
            [only] => only.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        })
    }
}

fn endpoint(service: &str, address: &str) -> Result<Endpoint, String> {
    let origin = format!("http://{}", full_name(service)).parse();
    let origin = origin.map_err(|error| format!("{service} is no service name: {error}"))?;
    let endpoint = Endpoint::from_shared(address.to_owned());
    let endpoint = endpoint.map_err(|error| format!("address of {service}, `{address}`: {error}"))?;
    Ok(endpoint.origin(origin).tcp_nodelay(true))
}

/// `payments` as the mesh names it: `payments.shop`.
pub fn full_name(service: &str) -> String {
    format!("{service}.{NAMESPACE}")
}
