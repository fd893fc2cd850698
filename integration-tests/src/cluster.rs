//! Several servers on one PostgreSQL of their own, each behind a proxy that can come between the two.

use crate::case::Database;
use crate::eventually::eventually;
use crate::fault_proxy::FaultProxy;
use crate::http::Door;
use crate::own_postgres::OwnPostgres;
use crate::server::Server;
use crate::sql::{self, Row};

/// The servers, and what they share. Dropped, the servers end before their database does.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub postgres: OwnPostgres,
}

/// One server, and the way from it to the database.
pub struct Node {
    pub server: Server,
    pub proxy: FaultProxy,
}

impl Cluster {
    /// Servers that are not started yet; each is made as told from one on an empty store of all.
    pub fn of(nodes: usize, make: impl Fn(Server) -> Server) -> Cluster {
        let postgres = OwnPostgres::start();
        let node = |_| {
            let proxy = FaultProxy::to(postgres.addr());
            let url = format!("postgres://postgres@{}/postgres", proxy.addr());
            Node { server: make(Server::on(Database::Sqlite).with_store(&url)), proxy }
        };
        Cluster { nodes: (0..nodes).map(node).collect(), postgres }
    }

    #[track_caller]
    pub fn start(mut self) -> Cluster {
        // The first makes the tables.
        self.nodes.iter_mut().for_each(|node| node.server.again());
        self
    }

    pub fn doors(&self) -> Vec<Door> {
        self.nodes.iter().map(|node| node.server.door()).collect()
    }

    /// The rows of a query on the store, past servers and proxies.
    #[track_caller]
    pub fn rows(&self, query: &str) -> Vec<Row> {
        sql::rows(&self.postgres.url(), query)
    }

    /// The one number that a query gives.
    #[track_caller]
    pub fn number(&self, query: &str) -> i64 {
        let rows = self.rows(query);
        let value = rows.first().and_then(|row| row.first().cloned().flatten());
        value.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{query}: {rows:?} is no number"))
    }

    /// The id under which a server that is running now is known in the store.
    #[track_caller]
    pub fn id(&self, index: usize) -> String {
        let pid = self.nodes[index].server.pid();
        let rows = self.rows(&format!("SELECT id FROM nodes WHERE pid = {pid} ORDER BY started_at DESC LIMIT 1"));
        rows.first().and_then(|row| row[0].clone()).expect("the server has registered")
    }

    /// Runs that a node has leased now.
    pub fn held_by(&self, id: &str) -> i64 {
        self.number(&format!("SELECT COUNT(*) FROM leases WHERE holder = '{id}' AND token IS NULL"))
    }

    /// Waits until a node was declared gone, nothing is leased to it any more, and its lease is over for so long.
    #[track_caller]
    pub fn is_replaced(&self, id: &str, over_for_ms: i64) {
        eventually("a node that lets nothing be heard of it is declared gone, and its runs are taken back", || {
            let is_gone = format!(
                "SELECT COUNT(*) FROM nodes WHERE id = '{id}' AND state = 'gone'
                AND lease_until + {over_for_ms} < extract(epoch FROM clock_timestamp()) * 1000"
            );
            self.number(&is_gone) == 1 && self.held_by(id) == 0
        });
    }

    /// Waits until all servers say that they are ready.
    #[track_caller]
    pub fn is_ready(&self) {
        for node in &self.nodes {
            eventually("a server is ready", || node.server.is_ready());
        }
    }

    /// Waits until no run is open any more, for as long as there are ever fewer that wait.
    #[track_caller]
    pub fn is_at_rest(&self) {
        let waiting =
            "SELECT (SELECT COUNT(*) FROM buffer) + (SELECT COUNT(*) FROM ready) + (SELECT COUNT(*) FROM leases)";
        let open = "SELECT COUNT(*) FROM run_records WHERE state = 'open'";
        let mut fewest = i64::MAX;
        while fewest > 0 {
            let mut now = fewest;
            eventually("fewer runs wait", || {
                now = match self.number(waiting) {
                    0 => self.number(open),
                    some => some,
                };
                now < fewest
            });
            fewest = now;
        }
    }

    /// Sessions that have a transaction open and do nothing in it, at this moment (invariant of F5).
    pub fn idle_in_transaction(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
    }
}

/// What to look at when something did not come about.
const DIAGNOSIS: &[&str] = &[
    "SELECT id, state, CAST(lease_until - extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) FROM nodes
        WHERE state <> 'gone'",
    "SELECT 'buffer', env, COUNT(*), NULL FROM buffer GROUP BY env UNION ALL
        SELECT 'ready', env, COUNT(*), NULL FROM ready GROUP BY env UNION ALL
        SELECT 'leases', env, COUNT(*), MIN(holder) FROM leases GROUP BY env",
    "SELECT state, wait_event, xact_start, LEFT(query, 60) FROM pg_stat_activity WHERE application_name = 'tidegate'
        AND (state <> 'idle' OR wait_event_type = 'Lock')",
    "SELECT id, state, holder, next_at FROM batches WHERE state NOT IN ('collected', 'abandoned')",
];

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for query in DIAGNOSIS {
            eprintln!("{:#?}", sql::try_rows(&self.postgres.url(), query));
        }
    }
}
