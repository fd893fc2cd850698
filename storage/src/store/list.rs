//! Lists runs of an env, newest first. One statement for each place that such runs are in: it walks an index of that
//! place backwards, and what else there is about a run is looked up for a page of them.
//!
//! Places fill and empty in seconds, so PostgreSQL knows neither how much there is nor of whom, and takes the runs of
//! one env for a two-hundredth of them: to it, to read all and put them in order seems as good, or to look for each run
//! there is in a place that is empty. The statements leave it nothing to guess from: bounds are rows (a third, whatever
//! is in them), conditions stand in a `CASE` (one half), and each run that a place has is looked up by itself.

use super::records::{RawRecord, places, record_columns};
use super::{Store, on_pool};
use crate::error::StoreError;
use crate::model::{RunState, Timestamp};
use crate::store::RunRecord;
use sqlx::{Database, Encode, QueryBuilder, Type};

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub state: Option<RunState>,
    pub task: Option<String>,
    pub queue: Option<String>,
    pub tag: Option<String>,
    pub source: Option<String>,
    /// Only steps of this session.
    pub session: Option<String>,
    pub accepted_after: Option<Timestamp>,
    pub accepted_before: Option<Timestamp>,
}

/// Around the tag that is looked for. Read as JSON, for a tag may hold quotes, commas and whatever a pattern would take
/// for a wildcard. PostgreSQL reads no JSON with an escaped NUL in it.
const TAG_SQLITE: (&str, &str) = (" AND EXISTS (SELECT 1 FROM json_each(r.tags) AS tag WHERE tag.value = ", ")");
const TAG_POSTGRES: (&str, &str) =
    (" AND CASE WHEN strpos(r.tags, '\\u0000') > 0 THEN false ELSE jsonb_exists(CAST(r.tags AS JSONB), ", ") END");

/// Around the env and the id of the run that is looked up for each row of a place, one at a time.
const ALONE_SQLITE: (&str, &str) = (" w CROSS JOIN run_records r ON r.env = ", "");
const ALONE_POSTGRES: (&str, &str) =
    (" w CROSS JOIN LATERAL (SELECT * FROM run_records r WHERE r.env = ", " OFFSET 0) r");

/// What a list walks, so that it never walks over runs in other states.
#[derive(Debug, Clone, Copy)]
struct Walk {
    /// The table, and how it calls the id of a run.
    table: &'static str,
    id: &'static str,
    /// The columns of the index that stand before the id: the env, and after it the state.
    keys: &'static [&'static str],
    only: &'static str,
}

const ALL: Walk = Walk { table: "run_records", id: "r.id", keys: &["r.env"], only: "TRUE" };
const SUCCEEDED: Walk = Walk { only: "r.state = 'succeeded'", ..ALL };
/// By the index over sessions, and by none that has the env or the id in it: a session has few runs, an env many.
const OF_SESSION: Walk = Walk { id: "(r.id || '')", keys: &[], ..ALL };
const SUCCEEDED_OF_SESSION: Walk = Walk { only: SUCCEEDED.only, ..OF_SESSION };
const BUFFERED: Walk = Walk { table: "buffer", id: "w.run_id", keys: &[], only: "TRUE" };
const RUNNING: Walk = Walk { table: "leases", ..BUFFERED };
const READY: Walk = Walk { table: "ready", keys: &["w.env"], ..BUFFERED };
const DELAYED: Walk = Walk { only: "w.due_at > 0 AND w.attempts = 0", ..READY };
const QUEUED: Walk = Walk { only: "(w.due_at = 0 OR w.attempts > 0)", ..READY };
const DRAWN: Walk = Walk { table: "runs", id: "w.id", keys: &["w.env"], only: "TRUE" };
const DRAWN_QUEUED: Walk = Walk { only: "w.state = 'queued'", ..DRAWN };
const DRAWN_RUNNING: Walk = Walk { only: "w.state = 'running'", ..DRAWN };
const UNSUCCESSFUL: Walk = Walk { table: "unsuccessful", keys: &["w.env", "w.state"], ..BUFFERED };

impl Walk {
    fn is_of_records(&self) -> bool {
        self.table == ALL.table
    }

    fn is_of_session(&self) -> bool {
        self.is_of_records() && self.keys.is_empty()
    }
}

/// Where the runs of a state are, or those of every state.
fn walks(filter: &RunFilter) -> &'static [Walk] {
    match filter.state {
        None if filter.session.is_some() => &[OF_SESSION],
        None => &[ALL],
        Some(RunState::Succeeded) if filter.session.is_some() => &[SUCCEEDED_OF_SESSION],
        Some(RunState::Succeeded) => &[SUCCEEDED],
        Some(RunState::Buffered) => &[BUFFERED],
        Some(RunState::Delayed) => &[DELAYED],
        Some(RunState::Queued) => &[QUEUED, DRAWN_QUEUED],
        Some(RunState::Running) => &[RUNNING, DRAWN_RUNNING],
        Some(RunState::Failed | RunState::Cancelled | RunState::TimedOut | RunState::Expired) => &[UNSUCCESSFUL],
    }
}

/// One page: those of `env` before the id `before`, at most `limit`.
struct Page<'a> {
    env: &'a str,
    filter: &'a RunFilter,
    before: Option<&'a str>,
    limit: i64,
    is_sqlite: bool,
}

impl Store {
    /// Runs of an env, newest first, those before `before` if it is given, at most `limit`.
    pub async fn list_runs(
        &self,
        env: &str,
        filter: &RunFilter,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<RunRecord>, StoreError> {
        let page = Page { env, filter, before, limit, is_sqlite: self.is_sqlite() };
        let mut found: Vec<RunRecord> = Vec::new();
        for walk in walks(filter) {
            let raw: Vec<RawRecord> = on_pool!(self, |pool| {
                page.statement::<Db>(walk).build_query_as().persistent(false).fetch_all(pool).await?
            });
            let records: Result<Vec<_>, _> = raw.into_iter().map(RunRecord::try_from).collect();
            found.append(&mut records?);
        }
        // Each walk came in this order already, and most lists take one.
        found.sort_by(|a, b| b.id.cmp(&a.id));
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(found)
    }

    /// The statements of a list, for those who look at their plans.
    #[doc(hidden)]
    pub fn list_statements(&self, env: &str, filter: &RunFilter, before: Option<&str>) -> Vec<String> {
        let page = Page { env, filter, before, limit: 1, is_sqlite: self.is_sqlite() };
        walks(filter)
            .iter()
            .map(|walk| on_pool!(self, |_pool| page.statement::<Db>(walk).sql().as_str().to_owned()))
            .collect()
    }
}

impl Page<'_> {
    fn statement<D: Database>(&self, walk: &Walk) -> QueryBuilder<D>
    where
        for<'t> &'t str: Encode<'t, D> + Type<D>,
        i64: for<'t> Encode<'t, D> + Type<D>,
    {
        let mut select = QueryBuilder::new(concat!("-- list_runs\n", record_columns!(), "(SELECT r.* FROM "));
        select.push(walk.table);
        if walk.is_of_records() {
            select.push(" r");
        } else {
            let (open, close) = if self.is_sqlite { ALONE_SQLITE } else { ALONE_POSTGRES };
            select.push(open).push_bind(self.env).push(" AND r.id = ").push(walk.id).push(close);
        }
        select.push(" WHERE TRUE");
        self.bounds(walk, &mut select);
        select.push(" AND CASE WHEN ").push(walk.only);
        self.conditions(walk, &mut select);
        select.push(" THEN TRUE ELSE FALSE END ORDER BY ");
        for key in walk.keys {
            select.push(*key).push(" DESC, ");
        }
        select.push(walk.id).push(" DESC LIMIT ").push_bind(self.limit);
        select.push(concat!(") AS r", places!(), " ORDER BY r.id DESC"));
        select
    }

    /// From the first to the last of the env, or to the one before which the page begins.
    fn bounds<'q, D: Database>(&'q self, walk: &Walk, select: &mut QueryBuilder<D>)
    where
        &'q str: Encode<'q, D> + Type<D>,
    {
        let keys = walk.keys.join(", ");
        let with_id = walk.keys.iter().copied().chain([walk.id]).collect::<Vec<_>>().join(", ");
        // Two bounds of one column would be taken for a narrow range.
        let first = match &self.filter.session {
            Some(session) if walk.is_of_session() => Some((" AND (", "r.session_id", ") = (", Some(session.as_str()))),
            _ if walk.keys.is_empty() && self.before.is_some() => None,
            _ => Some((" AND (", with_id.as_str(), ") >= (", Some(""))),
        };
        let last = match self.before {
            Some(before) => Some((" AND (", with_id.as_str(), ") < (", Some(before))),
            None if walk.keys.is_empty() => None,
            None => Some((" AND (", keys.as_str(), ") <= (", None)),
        };
        if let Some(env) = walk.keys.first() {
            // As an index over those that have one is told.
            select.push(" AND ").push(*env).push(" IS NOT NULL");
        }
        let key = [self.env, self.filter.state.map_or("", RunState::word)];
        for (open, columns, than, id) in first.into_iter().chain(last) {
            select.push(open).push(columns).push(than);
            let mut values = select.separated(", ");
            for value in key.into_iter().take(walk.keys.len()).chain(id) {
                values.push_bind(value);
            }
            select.push(")");
        }
    }

    fn conditions<'q, D: Database>(&'q self, walk: &Walk, select: &mut QueryBuilder<D>)
    where
        &'q str: Encode<'q, D> + Type<D>,
        i64: Encode<'q, D> + Type<D>,
    {
        let filter = self.filter;
        if walk.keys.is_empty() {
            select.push(if walk.is_of_records() { " AND r.env = " } else { " AND w.env = " }).push_bind(self.env);
        }
        let texts = [
            (" AND r.task = ", &filter.task),
            (" AND r.source = ", &filter.source),
            (" AND r.session_id = ", &filter.session),
            (" AND r.queue = ", &filter.queue),
        ];
        for (column, wanted) in texts.into_iter().filter_map(|(column, wanted)| Some((column, wanted.as_deref()?))) {
            select.push(column).push_bind(wanted);
        }
        if let Some(tag) = &filter.tag {
            let (before, after) = if self.is_sqlite { TAG_SQLITE } else { TAG_POSTGRES };
            select.push(before).push_bind(tag.as_str()).push(after);
        }
        let times =
            [(" AND r.accepted_at >= ", filter.accepted_after), (" AND r.accepted_at < ", filter.accepted_before)];
        for (column, time) in times.into_iter().filter_map(|(column, time)| Some((column, time?))) {
            select.push(column).push_bind(time.millis());
        }
    }
}
