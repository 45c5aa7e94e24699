//! `shop.UserService`: who shops here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tonic::{Request, Response, Status};

use crate::pb::user_service_server::UserService;
use crate::pb::{RegisterRequest, RegisterResponse, UserRequest, UserResponse};

/// Registrations past this many are refused with RESOURCE_EXHAUSTED.
pub const USERS_MAX: usize = 100_000;

/// The users, in memory.
#[derive(Debug, Default)]
pub struct Users(Mutex<Registered>);

#[derive(Debug, Default)]
struct Registered {
    /// The user of id `n` stands at `n - 1`.
    users: Vec<UserResponse>,
    by_email: HashMap<String, i32>,
}

#[tonic::async_trait]
impl UserService for Users {
    async fn get_user(&self, request: Request<UserRequest>) -> Result<Response<UserResponse>, Status> {
        let id = request.into_inner().id;
        let registered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let position = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let user = position.and_then(|position| registered.users.get(position));
        user.cloned().map(Response::new).ok_or_else(|| Status::not_found(format!("no user has the id {id}")))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let RegisterRequest { name, email } = request.into_inner();
        if !email.contains('@') {
            return Err(Status::invalid_argument(format!("`{email}` is no email address")));
        }
        let mut registered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = registered.by_email.get(&email) {
            return Ok(Response::new(RegisterResponse { id }));
        }
        if registered.users.len() == USERS_MAX {
            return Err(Status::resource_exhausted(format!("there are {USERS_MAX} users already")));
        }
        registered.users.push(UserResponse { name, email: email.clone() });
        let id = i32::try_from(registered.users.len()).expect("USERS_MAX fits an i32");
        registered.by_email.insert(email, id);
        Ok(Response::new(RegisterResponse { id }))
    }
}
