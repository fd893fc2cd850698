//! The log of what was done to the system itself.

use crate::fixture::at;
use crate::sent::{ENV, OTHER_ENV};
use storage::store::Deed;

fn deed<'a>(target: &'a str, key_id: Option<&'a str>) -> Deed<'a> {
    Deed { env: ENV, key_id, action: "actor.kill", target, data: "{\"mode\":\"stop\"}" }
}

on_both! {
    async fn deeds_are_read_newest_first_a_page_at_a_time(store: Fixture) {
        assert_eq!(store.deeds(ENV, None, 9).await.unwrap(), []);
        for (target, key_id) in [("a", None), ("b", Some("key_1")), ("c", None)] {
            store.tell(&deed(target, key_id), at(5)).await.unwrap();
        }
        store.tell(&Deed { env: OTHER_ENV, ..deed("d", None) }, at(5)).await.unwrap();
        let newest = store.deeds(ENV, None, 2).await.unwrap();
        assert_eq!(newest.iter().map(|row| row.target.as_str()).collect::<Vec<_>>(), ["c", "b"]);
        assert_eq!((newest[1].key_id.as_deref(), newest[1].at), (Some("key_1"), at(5).millis()));
        assert_eq!((newest[0].node.as_str(), newest[0].env.as_str()), (store.node().as_str(), ENV));
        let rest = store.deeds(ENV, Some(newest[1].seq), 9).await.unwrap();
        assert_eq!(rest.iter().map(|row| row.target.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!((rest[0].action.as_str(), rest[0].data.as_str()), ("actor.kill", "{\"mode\":\"stop\"}"));
    }

    async fn old_deeds_are_forgotten_oldest_first_a_bounded_number_at_a_time(store: Fixture) {
        for (target, nth) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
            let env = if nth == 2 { OTHER_ENV } else { ENV };
            store.tell(&Deed { env, ..deed(target, None) }, at(nth)).await.unwrap();
        }
        let left = async || {
            let deeds = store.deeds(ENV, None, 9).await.unwrap();
            deeds.into_iter().map(|row| row.target).collect::<String>()
        };
        assert_eq!(store.forget_deeds(at(1), 9).await.unwrap(), 0, "what was written just then is kept");
        assert_eq!((store.forget_deeds(at(4), 2).await.unwrap(), left().await.as_str()), (2, "edc"));
        assert_eq!((store.forget_deeds(at(4), 2).await.unwrap(), left().await.as_str()), (1, "ed"));
        assert_eq!(store.forget_deeds(at(4), 2).await.unwrap(), 0);
        store.tell(&deed("f", None), at(6)).await.unwrap();
        assert_eq!((store.forget_deeds(at(9), 9).await.unwrap(), left().await.as_str()), (3, ""));
    }
}
