//! Every operation of the store, run on SQLite and on PostgreSQL from one test body each.
//!
//! A test's name is a claim about the store; `claim::sqlite` and `claim::postgres` hold it against each
//! database. After every test the whole database is audited (`audit.rs`), whatever the test was about.

/// Makes two tests of one body. The body gets a fresh store of its own.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($store:ident: Fixture) $body:block)+) => {
        $($(#[$doc])*
        mod $name {
            #[allow(unused_imports, reason = "not every body names something of its family")]
            use super::*;

            async fn body($store: $crate::fixture::Fixture) $body

            #[test]
            fn sqlite() {
                $crate::fixture::run($crate::fixture::Kind::Sqlite, body);
            }

            #[test]
            fn postgres() {
                $crate::fixture::run($crate::fixture::Kind::Postgres, body);
            }
        })+
    };
}

/// The same for what only one of the two can do.
macro_rules! only_on {
    ($kind:ident: $($(#[$doc:meta])* async fn $name:ident($store:ident: Fixture) $body:block)+) => {
        $($(#[$doc])*
        #[test]
        fn $name() {
            async fn body($store: $crate::fixture::Fixture) $body
            $crate::fixture::run($crate::fixture::Kind::$kind, body);
        })+
    };
}

#[path = "support/postgres.rs"]
mod postgres;

#[path = "conformance/audit.rs"]
mod audit;
#[path = "conformance/fixture.rs"]
mod fixture;
#[path = "conformance/raw.rs"]
mod raw;
#[path = "conformance/sent.rs"]
mod sent;
#[path = "conformance/writes.rs"]
mod writes;

#[path = "conformance/accept.rs"]
mod accept;
#[path = "conformance/audit_log.rs"]
mod audit_log;
#[path = "conformance/buffer.rs"]
mod buffer;
#[path = "conformance/cancelled.rs"]
mod cancelled;
#[path = "conformance/caps.rs"]
mod caps;
#[path = "conformance/claim.rs"]
mod claim;
#[path = "conformance/dispatch.rs"]
mod dispatch;
#[path = "conformance/drawn.rs"]
mod drawn;
#[path = "conformance/finish.rs"]
mod finish;
#[path = "conformance/import.rs"]
mod import;
#[path = "conformance/imported.rs"]
mod imported;
#[path = "conformance/jobs.rs"]
mod jobs;
#[path = "conformance/keys.rs"]
mod keys;
#[path = "conformance/live.rs"]
mod live;
#[path = "conformance/lost.rs"]
mod lost;
#[path = "conformance/mended.rs"]
mod mended;
#[path = "conformance/nodes.rs"]
mod nodes;
#[path = "conformance/opening.rs"]
mod opening;
#[path = "conformance/operator.rs"]
mod operator;
#[path = "conformance/output.rs"]
mod output;
#[path = "conformance/patch.rs"]
mod patch;
#[path = "conformance/plans.rs"]
mod plans;
#[path = "conformance/pull.rs"]
mod pull;
#[path = "conformance/queues.rs"]
mod queues;
#[path = "conformance/reading.rs"]
mod reading;
#[path = "conformance/reconcile.rs"]
mod reconcile;
#[path = "conformance/records.rs"]
mod records;
#[path = "conformance/retention.rs"]
mod retention;
#[path = "conformance/rounds.rs"]
mod rounds;
#[path = "conformance/schema.rs"]
mod schema;
#[path = "conformance/sessions.rs"]
mod sessions;
#[path = "conformance/settle.rs"]
mod settle;
#[path = "conformance/spend.rs"]
mod spend;
#[path = "conformance/submit.rs"]
mod submit;
#[path = "conformance/sweeps.rs"]
mod sweeps;
#[path = "conformance/timeline.rs"]
mod timeline;
#[path = "conformance/traces.rs"]
mod traces;
#[path = "conformance/waiting.rs"]
mod waiting;
#[path = "conformance/walks.rs"]
mod walks;
#[path = "conformance/writing.rs"]
mod writing;
