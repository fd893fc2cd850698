//! `tidegate keys`: makes, lists and ends API keys, in the store itself.
//!
//! The first key cannot come from a server that asks for one. A key is printed once, when it is made; what is
//! stored is a digest of its secret.

mod view;

use crate::batches::with_store;
use crate::cli::{Common, KeysCommand};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::http::keys::{Env, NewKey, Scopes};
use std::time::Duration;
use storage::Store;
use storage::model::Timestamp;
use storage::store::ApiKey;

const PAGE: i64 = 500;
const NAME_CHARS: usize = 128;

pub fn run(command: &KeysCommand, common: &Common, config: &Config) -> Result<Exit, Failure> {
    let done = match command {
        KeysCommand::Create { env, scopes, name, expires } => {
            let wish = Wish { env: env_of(env)?, scopes: scopes_of(scopes)?, name: name_of(name)?, lives: *expires };
            with_store(common, config, async |store| {
                let made = make(store, &wish).await?;
                view::made(&made, common.output)
            })
        }
        KeysCommand::List { env } => {
            let env = env.as_deref().map(env_of).transpose()?;
            with_store(common, config, async |store| {
                let keys = all(store, env.as_ref()).await?;
                view::list(&keys, store.now()).print(common.output, store.now())
            })
        }
        KeysCommand::Rotate { id, grace } => {
            with_store(common, config, async |store| rotate(store, id, *grace, common).await)
        }
        KeysCommand::Revoke { ids } => with_store(common, config, async |store| revoke(store, ids, common).await),
    };
    done.map(|()| Exit::Done).map_err(explained)
}

/// On SQLite one process at a time has the store, and a server that runs is that one.
fn explained(failure: Failure) -> Failure {
    if failure.exit != Exit::Conflict || failure.hint.is_some() {
        return failure;
    }
    failure.hint(
        "keys are made in the store itself, which on SQLite one process at a time can have: stop the server, \
         run this again, and start it again; on PostgreSQL both may run",
    )
}

fn env_of(text: &str) -> Result<Env, Failure> {
    text.parse().map_err(|error| Failure::usage(format!("--env {text}: {error}")))
}

fn scopes_of(words: &[String]) -> Result<Scopes, Failure> {
    let scopes: Scopes = words.join(",").parse().map_err(|error| Failure::usage(format!("--scope: {error}")))?;
    if scopes == Scopes::NONE {
        return Err(Failure::usage(format!(
            "--scope: a key without a scope may do nothing; there are {}",
            Scopes::ALL
        )));
    }
    Ok(scopes)
}

fn name_of(name: &str) -> Result<String, Failure> {
    let good = name.chars().count() <= NAME_CHARS && !name.chars().any(char::is_control);
    let bad = || Failure::usage(format!("--name may have {NAME_CHARS} characters at most, none of them control ones"));
    good.then(|| name.to_owned()).ok_or_else(bad)
}

/// A key as it is asked for.
struct Wish {
    env: Env,
    scopes: Scopes,
    name: String,
    lives: Option<Duration>,
}

/// A key that was just made, with the only copy of its secret.
pub struct Made {
    pub key: ApiKey,
    pub secret: NewKey,
}

async fn make(store: &Store, wish: &Wish) -> Result<Made, Failure> {
    let no_randomness = |error| Failure::new(Exit::Unexpected, format!("the system has no randomness: {error}"));
    let secret = NewKey::generate(&wish.env).map_err(no_randomness)?;
    let now = store.now();
    let key = ApiKey {
        id: secret.id.to_string(),
        env: wish.env.to_string(),
        name: wish.name.clone(),
        sha256: secret.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        scopes: wish.scopes.to_string(),
        created_at: now.millis(),
        expires_at: wish.lives.map(|lives| (now + lives).millis()),
        revoked_at: None,
        last_used_at: None,
    };
    store.insert_key(&key).await?;
    Ok(Made { key, secret })
}

/// A key that may do everything, for a store that lasts as long as its process.
pub async fn demo(store: &Store) -> Result<Made, Failure> {
    make(store, &Wish { env: Env::default(), scopes: Scopes::ALL, name: "demo".to_owned(), lives: None }).await
}

async fn all(store: &Store, env: Option<&Env>) -> Result<Vec<ApiKey>, Failure> {
    let mut keys: Vec<ApiKey> = Vec::new();
    loop {
        let after = keys.last().map(|key| key.id.clone()).unwrap_or_default();
        let page = store.keys(env.map(Env::as_str), &after, PAGE).await?;
        let over = (page.len() as i64) < PAGE;
        keys.extend(page);
        if over {
            keys.sort_by_key(|key| std::cmp::Reverse(key.created_at));
            return Ok(keys);
        }
    }
}

async fn existing(store: &Store, id: &str) -> Result<ApiKey, Failure> {
    // A whole key is easily pasted for its id, and must not be shown again.
    let shown = if crate::http::keys::looks_like_key(id) { "that text" } else { id };
    store.key(id).await?.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("there is no key with the id {shown}"))
            .hint("`tidegate keys list` shows the ids of this store; is --store the right one?")
    })
}

async fn rotate(store: &Store, id: &str, grace: Duration, common: &Common) -> Result<(), Failure> {
    let old = existing(store, id).await?;
    let now = store.now();
    if !view::is_good(&old, now) {
        let failure = Failure::new(Exit::Conflict, format!("the key {id} has ended already"));
        return Err(failure.hint("make a new one with `tidegate keys create`"));
    }
    let lives = old.expires_at.map(|end| Timestamp::from_millis(end).since(Timestamp::from_millis(old.created_at)));
    let wish = Wish {
        env: env_of(&old.env)?,
        scopes: old.scopes.parse().map_err(|error| Failure::new(Exit::StoreFailed, format!("key {id}: {error}")))?,
        name: old.name.clone(),
        lives,
    };
    let made = make(store, &wish).await?;
    // Printed before the old one is touched: whatever happens from here on, the new one is known.
    view::made(&made, common.output)?;
    store.expire_key(id, now + grace).await?;
    say!("the old key {id} ends at {}, if not sooner", now + grace);
    Ok(())
}

async fn revoke(store: &Store, ids: &[String], common: &Common) -> Result<(), Failure> {
    for id in ids {
        existing(store, id).await?;
    }
    let mut revoked = Vec::new();
    for id in ids {
        if !store.revoke_key(id, store.now()).await? {
            say!("{id} was revoked before");
        }
        revoked.push(existing(store, id).await?);
    }
    view::list(&revoked, store.now()).print(common.output, store.now())
}
