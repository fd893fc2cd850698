//! Who is calling: envs, scopes, API keys, and the gate that turns a request's credential into a caller.
//!
//! A key is shown once, when it is made; what is stored is the SHA-256 of its secret, which is strong enough
//! as the secret is 256 random bits. Every bad credential gets the same answer.

mod env;
mod scope;
mod token;
mod gate;

pub use env::{BadEnv, Env};
pub use gate::{Caller, ENV_HEADER, FindKey, Finding, Gate, StoredKey, bearer, x_api_key};
pub use scope::{BadScope, Scope, Scopes};
pub use token::{Digest, KeyId, NewKey, PREFIX, Presented, Token, looks_like_key};
