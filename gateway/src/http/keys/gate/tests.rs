use super::*;
use crate::http::keys::NewKey;
use crate::http::problem::Code;
use actix_web::test::TestRequest;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use storage::model::ManualClock;

/// A gate over one stored key, with the number of its lookups.
struct House {
    gate: Gate,
    clock: Arc<ManualClock>,
    stored: Arc<Mutex<Option<StoredKey>>>,
    lookups: Arc<AtomicU32>,
    key: NewKey,
}

fn house() -> House {
    let env: Env = "acme/prod".parse().expect("an env");
    let key = NewKey::generate(&env).expect("randomness");
    let scopes = "runs:read".parse().expect("scopes");
    let stored = StoredKey { sha256: key.sha256, env, scopes, expires_at: None, revoked_at: None };
    let stored = Arc::new(Mutex::new(Some(stored)));
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    let lookups = Arc::new(AtomicU32::new(0));
    let (seen, counted, id) = (Arc::clone(&stored), Arc::clone(&lookups), key.id.clone());
    let find = move |asked: KeyId| {
        counted.fetch_add(1, Ordering::SeqCst);
        let found = seen.lock().expect("a key").clone().filter(|_| asked == id);
        async move { Ok(found) }
    };
    let gate = Gate::with_keys(Arc::new(find), Arc::<ManualClock>::clone(&clock));
    House { gate, clock, stored, lookups, key }
}

impl House {
    async fn enter(&self, authorization: &str) -> Result<Caller, Problem> {
        let request = TestRequest::get().insert_header(("authorization", authorization)).to_http_request();
        self.gate.caller(request.headers()).await
    }

    async fn enter_with_key(&self) -> Result<Caller, Problem> {
        self.enter(&format!("Bearer {}", self.key.token.reveal())).await
    }

    fn change(&self, change: impl FnOnce(&mut StoredKey)) {
        change(self.stored.lock().expect("a key").as_mut().expect("stored"));
    }
}

fn told(refused: Result<Caller, Problem>) -> (Code, String) {
    let problem = refused.expect_err("a refusal");
    (problem.code, problem.detail.into_owned())
}

#[actix_web::test]
async fn a_good_key_says_who_is_calling() {
    let house = house();
    let caller = house.enter_with_key().await.expect("a caller");
    assert_eq!((caller.env.as_str(), caller.key_id.as_ref()), ("acme/prod", Some(&house.key.id)));
    assert_eq!(caller.needs(Scope::RunsRead).map_err(|problem| problem.code), Ok(()));
    let problem = caller.needs(Scope::RunsWrite).expect_err("a refusal");
    assert_eq!(problem.code, Code::ForbiddenScope);
    assert!(problem.detail.contains("`runs:write`"));
    let lower = house.enter(&format!("bearer {}", house.key.token.reveal())).await;
    assert!(lower.is_ok());
}

#[actix_web::test]
async fn rows_125_to_128_every_bad_credential_gets_the_same_answer() {
    let house = house();
    let same = (Code::Unauthenticated, Problem::unauthenticated().detail.into_owned());
    let bare = TestRequest::get().to_http_request();
    assert_eq!(told(house.gate.caller(bare.headers()).await), same);
    let token = house.key.token.reveal().to_owned();
    let huge = format!("Bearer tg_{}", "a".repeat(10_240));
    for malformed in ["Basic dXNlcjpwYXNz", &token, "Bearer", "Bearer ", "Bearer tg_x", &huge] {
        assert_eq!(told(house.enter(malformed).await), same, "{malformed:.30}");
    }
    assert_eq!(house.lookups.load(Ordering::SeqCst), 0, "none of these is worth a lookup");
    let other = NewKey::generate(&"acme/prod".parse().expect("an env")).expect("randomness");
    assert_eq!(told(house.enter(&format!("Bearer {}", other.token.reveal())).await), same, "unknown");
    house.change(|key| key.expires_at = Some(Timestamp::from_millis(1_000_000)));
    assert_eq!(told(house.enter_with_key().await), same, "expired");
    house.change(|key| key.env = "acme/dev".parse().expect("an env"));
    assert_eq!(told(house.enter_with_key().await), same, "of another env");
    *house.stored.lock().expect("a key") = None;
    house.clock.advance(TRUSTED_FOR);
    assert_eq!(told(house.enter_with_key().await), same, "gone");
}

#[actix_web::test]
async fn a_key_with_another_secret_is_not_let_in() {
    let house = house();
    house.change(|key| key.sha256 = [7; 32]);
    assert_eq!(told(house.enter_with_key().await).0, Code::Unauthenticated);
}

#[actix_web::test]
async fn row_126_two_credentials_are_none() {
    let house = house();
    let value = format!("Bearer {}", house.key.token.reveal());
    let request = TestRequest::get()
        .append_header(("authorization", value.as_str()))
        .append_header(("authorization", value.as_str()))
        .to_http_request();
    assert_eq!(told(house.gate.caller(request.headers()).await).0, Code::Unauthenticated);
}

#[actix_web::test]
async fn a_revoked_key_ends_within_five_seconds_and_a_good_one_is_looked_up_once() {
    let house = house();
    for _ in 0..100 {
        assert!(house.enter_with_key().await.is_ok());
    }
    assert_eq!(house.lookups.load(Ordering::SeqCst), 1);
    house.change(|key| key.revoked_at = Some(Timestamp::from_millis(1_000_001)));
    house.clock.advance(Duration::from_millis(4_999));
    assert!(house.enter_with_key().await.is_err());
}

#[actix_web::test]
async fn a_remembered_key_still_expires_in_time() {
    let house = house();
    house.change(|key| key.expires_at = Some(Timestamp::from_millis(1_000_100)));
    assert!(house.enter_with_key().await.is_ok());
    house.clock.advance(Duration::from_millis(100));
    assert!(house.enter_with_key().await.is_err());
    assert_eq!(house.lookups.load(Ordering::SeqCst), 1);
}

#[actix_web::test]
async fn a_clock_that_is_set_back_trusts_nobody_longer() {
    let house = house();
    let keys = house.gate.keys.as_ref().expect("keys");
    let key = house.stored.lock().expect("a key").clone().expect("stored");
    keys.remember(&house.key.id, Remembered { key, seen_at: Timestamp::from_millis(1_000_001) });
    assert!(house.enter_with_key().await.is_ok());
    assert_eq!(house.lookups.load(Ordering::SeqCst), 1);
}

#[actix_web::test]
async fn an_open_gate_takes_the_env_from_its_header() {
    let gate = Gate::open();
    let enter = |value: Option<&'static str>| {
        let mut request = TestRequest::get();
        if let Some(value) = value {
            request = request.insert_header((ENV_HEADER, value));
        }
        request.to_http_request()
    };
    for (value, env) in [(None, "default/dev"), (Some("acme/prod"), "acme/prod")] {
        let caller = gate.caller(enter(value).headers()).await.expect("a caller");
        assert_eq!((caller.env.as_str(), caller.key_id, caller.scopes), (env, None, Scopes::ALL));
    }
    assert_eq!(told(gate.caller(enter(Some("Acme/prod")).headers()).await).0, Code::InvalidField);
}

#[actix_web::test]
async fn a_key_does_not_act_in_another_env_than_its_own() {
    let house = house();
    let token = house.key.token.reveal();
    for (env, good) in [("acme/prod", true), ("acme/dev", false)] {
        let request = TestRequest::get().insert_header((ENV_HEADER, env)).to_http_request();
        assert_eq!(house.gate.caller_with(Some(token), request.headers()).await.is_ok(), good, "{env}");
    }
}

#[actix_web::test]
async fn what_is_remembered_is_bounded() {
    let house = house();
    let keys = house.gate.keys.as_ref().expect("keys");
    let key = house.stored.lock().expect("a key").clone().expect("stored");
    for index in 0..REMEMBERED_MAX + 10 {
        let seen_at = Timestamp::from_millis(0);
        keys.remember(&KeyId::from_text(index.to_string()), Remembered { key: key.clone(), seen_at });
    }
    assert_eq!(keys.remembered.len(), REMEMBERED_MAX);
    assert!(house.enter_with_key().await.is_ok());
    assert_eq!(keys.remembered.len(), 1, "old ones make room");
}
