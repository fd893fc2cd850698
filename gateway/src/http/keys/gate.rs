//! Turns the credential of a request into a caller, or refuses it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use actors::metrics::AUTH_FAILURES;
use dashmap::DashMap;
use storage::StoreError;
use storage::model::{Clock, Timestamp};

use super::{Digest, Env, KeyId, Presented, Scope, Scopes};
use crate::http::problem::Problem;

/// Names the env while no keys are asked for.
pub const ENV_HEADER: &str = "x-tidegate-env";

/// How long a key is trusted after it was looked up; a revoked key ends on all nodes within this.
const TRUSTED_FOR: Duration = Duration::from_secs(4);
/// Keys remembered at most.
const REMEMBERED_MAX: usize = 10_000;

/// A key as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    pub sha256: Digest,
    pub env: Env,
    pub scopes: Scopes,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl StoredKey {
    fn is_good_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at) && self.revoked_at.is_none_or(|at| now < at)
    }
}

/// What looking up a key gives.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Result<Option<StoredKey>, StoreError>> + Send + 'a>>;

/// Where keys are looked up. An async closure over a `KeyId` is one.
pub trait FindKey: Send + Sync {
    fn find(&self, id: KeyId) -> Finding<'_>;

    /// Told after a lookup that the key has just let somebody in. Must not keep the request waiting.
    fn used(&self, _id: &KeyId) {}
}

impl<F, A> FindKey for F
where
    F: Fn(KeyId) -> A + Send + Sync,
    A: Future<Output = Result<Option<StoredKey>, StoreError>> + Send + 'static,
{
    fn find(&self, id: KeyId) -> Finding<'_> {
        Box::pin(self(id))
    }
}

/// Who a request acts for, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub env: Env,
    pub key_id: Option<KeyId>,
    pub scopes: Scopes,
}

impl Caller {
    /// Refuses a caller whose key lacks the scope, naming it.
    pub fn needs(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.has(scope) {
            return Ok(());
        }
        Err(refused("scope", Problem::forbidden_scope(scope)))
    }
}

/// The one place where callers come from; shared by all workers.
pub struct Gate {
    keys: Option<Keys>,
}

struct Keys {
    find: Arc<dyn FindKey>,
    clock: Arc<dyn Clock>,
    remembered: DashMap<KeyId, Remembered>,
}

#[derive(Clone)]
struct Remembered {
    key: StoredKey,
    seen_at: Timestamp,
}

impl Gate {
    /// Lets everybody in, with every scope, into the env that they name.
    pub fn open() -> Gate {
        Gate { keys: None }
    }

    /// Asks everybody for a key.
    pub fn with_keys(find: Arc<dyn FindKey>, clock: Arc<dyn Clock>) -> Gate {
        Gate { keys: Some(Keys { find, clock, remembered: DashMap::new() }) }
    }

    /// The caller by `Authorization: Bearer`.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        self.caller_with(bearer(headers), headers).await
    }

    /// The caller by a token that stood elsewhere, for protocols that send it so.
    pub async fn caller_with(&self, token: Option<&str>, headers: &HeaderMap) -> Result<Caller, Problem> {
        let named = named_env(headers)?;
        let Some(keys) = &self.keys else {
            return Ok(Caller { env: named.unwrap_or_default(), key_id: None, scopes: Scopes::ALL });
        };
        let Some(token) = token else { return Err(refused("missing", Problem::unauthenticated())) };
        let presented = Presented::parse(token).ok_or_else(|| refused("bad", Problem::unauthenticated()))?;
        let caller = keys.verify(presented).await?;
        match named {
            Some(named) if named != caller.env => {
                Err(Problem::field(ENV_HEADER, "other_env", format!("the key is for {}", caller.env)))
            }
            _ => Ok(caller),
        }
    }
}

impl Keys {
    async fn verify(&self, presented: Presented) -> Result<Caller, Problem> {
        let now = self.clock.now();
        let recalled = self.recalled(&presented.id, now);
        let looked_up = recalled.is_none();
        let key = match recalled {
            Some(key) => Some(key),
            None => self.looked_up(&presented.id, now).await?,
        };
        let matches = |key: &StoredKey| presented.matches(&key.sha256) && key.env == presented.env;
        match key.filter(matches) {
            Some(key) if key.is_good_at(now) => {
                if looked_up {
                    self.find.used(&presented.id);
                }
                Ok(Caller { env: key.env, key_id: Some(presented.id), scopes: key.scopes })
            }
            Some(_) => Err(refused("expired", Problem::unauthenticated())),
            None => Err(refused("bad", Problem::unauthenticated())),
        }
    }

    fn recalled(&self, id: &KeyId, now: Timestamp) -> Option<StoredKey> {
        let known = self.remembered.get(id)?;
        // A clock that was set back must not make a key live longer.
        let fresh = known.seen_at <= now && now.since(known.seen_at) < TRUSTED_FOR;
        fresh.then(|| known.key.clone())
    }

    async fn looked_up(&self, id: &KeyId, now: Timestamp) -> Result<Option<StoredKey>, Problem> {
        let found = self.find.find(id.clone()).await?;
        match &found {
            Some(key) => self.remember(id, Remembered { key: key.clone(), seen_at: now }),
            None => drop(self.remembered.remove(id)),
        }
        Ok(found)
    }

    fn remember(&self, id: &KeyId, key: Remembered) {
        if self.remembered.len() >= REMEMBERED_MAX {
            let now = key.seen_at;
            self.remembered.retain(|_, known| now.since(known.seen_at) < TRUSTED_FOR);
            if self.remembered.len() >= REMEMBERED_MAX {
                return;
            }
        }
        self.remembered.insert(id.clone(), key);
    }
}

/// Counts a refusal; the caller is not told more of its reason than the problem says.
fn refused(reason: &'static str, problem: Problem) -> Problem {
    metrics::counter!(AUTH_FAILURES, "reason" => reason).increment(1);
    problem
}

/// The token of the only `Authorization` header, if that is a bearer's.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION);
    let value = values.next().filter(|_| values.next().is_none())?;
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
}

/// The token of the only `x-api-key` header, as some SDKs send it.
pub fn x_api_key(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("x-api-key");
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

fn named_env(headers: &HeaderMap) -> Result<Option<Env>, Problem> {
    let mut values = headers.get_all(ENV_HEADER);
    let Some(value) = values.next() else { return Ok(None) };
    let env = value.to_str().ok().filter(|_| values.next().is_none()).and_then(|text| text.parse().ok());
    match env {
        Some(env) => Ok(Some(env)),
        None => Err(Problem::field(ENV_HEADER, "format", super::BadEnv.to_string())),
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Caller, Problem>>>>;

    /// A caller that a middleware has found already is taken over; else the app's `Data<Gate>` is asked.
    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let known = request.extensions().get::<Caller>().cloned();
        let gate = request.app_data::<web::Data<Gate>>().cloned();
        let headers = request.clone();
        Box::pin(async move {
            match (known, gate) {
                (Some(caller), _) => Ok(caller),
                (None, Some(gate)) => gate.caller(headers.headers()).await,
                (None, None) => Err(Problem::internal("the app has no gate")),
            }
        })
    }
}

#[cfg(test)]
mod tests;
