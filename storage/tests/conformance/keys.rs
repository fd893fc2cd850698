//! API keys: found by id, revoked once, ended early but never late, their use remembered seldom.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV};
use std::time::Duration;
use storage::Class;
use storage::store::ApiKey;

const MINUTE: Duration = Duration::from_secs(60);

pub fn key(id: &str, env: &str) -> ApiKey {
    ApiKey {
        id: id.to_owned(),
        env: env.to_owned(),
        name: format!("name of {id}"),
        sha256: format!("digest of {id}"),
        scopes: "read write".to_owned(),
        created_at: at(0).millis(),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    }
}

on_both! {
    async fn a_key_is_found_as_it_was_inserted_and_only_by_its_id(store: Fixture) {
        assert!(!store.has_keys().await.unwrap());
        let (plain, ending) = (key("tg_1", ENV), ApiKey { expires_at: Some(at(90).millis()), ..key("tg_2", ENV) });
        for key in [&plain, &ending] {
            store.insert_key(key).await.unwrap();
            assert_eq!(store.key(&key.id).await.unwrap().as_ref(), Some(key));
        }
        assert!(store.has_keys().await.unwrap());
        for id in ["", "tg_", "tg_3", "TG_1", "tg_1 ", "%"] {
            assert_eq!(store.key(id).await.unwrap(), None);
        }
    }

    async fn an_id_is_given_to_one_key_only(store: Fixture) {
        store.insert_key(&key("tg_1", ENV)).await.unwrap();
        let before = store.snapshot().await;
        let refusal = store.insert_key(&key("tg_1", OTHER_ENV)).await.unwrap_err();
        assert_eq!(refusal.class(), Class::Conflict);
        before.assert_same(&store.snapshot().await, "a second key of one id");
    }

    async fn keys_are_listed_by_id_in_pages_of_one_env_or_all(store: Fixture) {
        let mut all = Vec::new();
        for nth in 0..9 {
            let key = key(&format!("tg_{nth}"), if nth % 3 == 0 { OTHER_ENV } else { ENV });
            store.insert_key(&key).await.unwrap();
            all.push(key);
        }
        for env in [None, Some(ENV), Some(OTHER_ENV), Some("acme/none")] {
            let expected: Vec<_> = all.iter().filter(|key| env.is_none_or(|env| key.env == env)).cloned().collect();
            let (mut after, mut paged) = (String::new(), Vec::new());
            loop {
                let page = store.keys(env, &after, 2).await.unwrap();
                assert!(page.len() <= 2);
                let Some(last) = page.last() else { break };
                after.clone_from(&last.id);
                paged.extend(page);
            }
            assert_eq!(paged, expected);
        }
    }

    async fn a_key_is_revoked_once_and_keeps_when(store: Fixture) {
        store.insert_key(&key("tg_1", ENV)).await.unwrap();
        store.insert_key(&key("tg_2", ENV)).await.unwrap();
        assert!(store.revoke_key("tg_1", at(5)).await.unwrap());
        assert!(!store.revoke_key("tg_1", at(6)).await.unwrap());
        assert!(!store.revoke_key("tg_none", at(6)).await.unwrap());
        assert_eq!(store.key("tg_1").await.unwrap().unwrap().revoked_at, Some(at(5).millis()));
        assert_eq!(store.key("tg_2").await.unwrap().unwrap().revoked_at, None);
        assert!(store.has_keys().await.unwrap(), "a revoked key is one: the store is not open again");
    }

    async fn of_many_who_revoke_a_key_one_does(store: Fixture) {
        store.insert_key(&key("tg_1", ENV)).await.unwrap();
        let racing: Vec<_> = store.callers(8).await.into_iter().map(|caller| {
            tokio::spawn(async move { caller.revoke_key("tg_1", at(5)).await.unwrap() })
        }).collect();
        let mut revoked = 0;
        for caller in racing {
            revoked += usize::from(caller.await.unwrap());
        }
        assert_eq!(revoked, 1);
    }

    async fn a_key_may_end_sooner_than_it_would_but_not_later(store: Fixture) {
        store.insert_key(&key("tg_1", ENV)).await.unwrap();
        let ends = async || store.key("tg_1").await.unwrap().unwrap().expires_at;
        assert!(store.expire_key("tg_1", at(90)).await.unwrap());
        assert_eq!(ends().await, Some(at(90).millis()));
        assert!(store.expire_key("tg_1", at(50)).await.unwrap());
        for later in [50, 51, 99] {
            assert!(!store.expire_key("tg_1", at(later)).await.unwrap());
        }
        assert_eq!(ends().await, Some(at(50).millis()));
        store.revoke_key("tg_1", at(5)).await.unwrap();
        assert!(!store.expire_key("tg_1", at(40)).await.unwrap(), "a revoked key has ended");
        assert!(!store.expire_key("tg_none", at(40)).await.unwrap());
    }

    async fn the_use_of_a_key_is_remembered_at_most_once_a_minute(store: Fixture) {
        store.insert_key(&key("tg_1", ENV)).await.unwrap();
        let used = async || store.key("tg_1").await.unwrap().unwrap().last_used_at;
        for (now, remembered) in [(0, 0), (1, 0), (59_999, 0), (60_000, 0), (60_001, 60_001), (120_000, 60_001)] {
            store.key_used("tg_1", at(now), at(now) - MINUTE).await.unwrap();
            assert_eq!(used().await, Some(at(remembered).millis()), "at {now}");
        }
        store.key_used("tg_none", at(0), at(0) - MINUTE).await.unwrap();
    }
}
