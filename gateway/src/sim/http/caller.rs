//! Who is asking: the account behind the key, and what is refused before any handler runs.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};

use super::dialect_of;
use super::stream::{Cut, KillSwitch, off_thread};
use crate::sim::SimError;
use crate::sim::error::ApiError;
use crate::sim::event::{Dialect, Event};
use crate::sim::faults::{Faults, rate};
use crate::sim::ids;
use crate::sim::world::{World, held};

const VERSIONS: [&str; 2] = ["2023-06-01", "2026-10-21"];

/// A caller with a key. The key itself is forgotten here: only its digest goes any further.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Caller {
    pub world: Arc<World>,
    pub account: String,
    pub dialect: Dialect,
    /// The switches in force when the request arrived.
    pub faults: Faults,
    /// The `anthropic-version`, where it is required.
    pub version: Option<&'static str>,
    pub connection: Option<KillSwitch>,
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Caller, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(identify(request))
    }
}

fn identify(request: &HttpRequest) -> Result<Caller, ApiError> {
    let dialect = dialect_of(request.path());
    let world = request.app_data::<web::Data<World>>().ok_or_else(|| ApiError::internal(dialect))?;
    let world = Arc::clone(world);
    let key = key(request).ok_or_else(|| ApiError::unauthorized(dialect))?;
    let account = ids::hex(&ids::sha(key.as_bytes())[..8]);
    let faults = {
        let shared = world.account(&account);
        let account = held(&shared);
        world.faults(&account)
    };
    let mut version = None;
    if !request.path().starts_with("/sim/") {
        if faults.reject_keys == Some(true) {
            return Err(ApiError::unauthorized(dialect));
        }
        if request.method() == Method::GET && ids::chance(rate(faults.unavailable_rate)) {
            return Err(ApiError::unavailable(dialect));
        }
        if dialect == Dialect::Anthropic {
            version = Some(anthropic_version(request)?);
        }
    }
    let connection = request.conn_data::<KillSwitch>().cloned();
    Ok(Caller { world, account, dialect, faults, version, connection })
}

impl Caller {
    /// Decides whether a download of this account breaks off, and where; `size` is asked only if so.
    pub async fn cut(
        &self,
        size: impl FnOnce() -> Result<u64, SimError> + Send + 'static,
    ) -> Result<Option<Cut>, ApiError> {
        let Some(connection) = self.connection.clone() else { return Ok(None) };
        let counted = {
            let shared = self.world.account(&self.account);
            let mut account = held(&shared);
            let counted = account.has_left("cut_downloads", self.faults.cut_downloads);
            if counted {
                let event = Event::FaultUsed { fault: "cut_downloads".to_owned() };
                let recorded = self.world.record(&self.account, &mut account, event);
                recorded.map_err(|error| ApiError::broken(self.dialect, &error))?;
            }
            counted
        };
        if !counted && !ids::chance(rate(self.faults.cut_download_rate)) {
            return Ok(None);
        }
        let size = off_thread(self.dialect, size).await?;
        Ok(Some(Cut { after: ids::place(size), connection }))
    }
}

fn key(request: &HttpRequest) -> Option<&str> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = header(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| header("x-api-key")).filter(|key| !key.is_empty())
}

fn anthropic_version(request: &HttpRequest) -> Result<&'static str, ApiError> {
    let Some(given) = request.headers().get("anthropic-version") else {
        return Err(ApiError::invalid(Dialect::Anthropic, "anthropic-version: header is required"));
    };
    let known = VERSIONS.into_iter().find(|version| given.as_bytes() == version.as_bytes());
    known.ok_or_else(|| {
        let given = String::from_utf8_lossy(given.as_bytes());
        ApiError::invalid(Dialect::Anthropic, format!("anthropic-version: {given:?} is not a valid version"))
    })
}
