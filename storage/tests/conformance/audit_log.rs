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
}
