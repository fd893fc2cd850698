-- Where walks go on that delete what is old, besides the one over ended runs.
CREATE TABLE sweep_places (
    walk TEXT NOT NULL PRIMARY KEY,
    at   BIGINT NOT NULL,
    id   TEXT NOT NULL
);
CREATE INDEX sessions_closed ON sessions (moved_at, id) WHERE state = 'closed';
CREATE INDEX jobs_ended ON jobs (finished_at, id) WHERE task IS NOT NULL AND finished_at IS NOT NULL;
CREATE INDEX batches_finished ON batches (pool, finished_at);
-- Batches for whose sake others of their account are looked for at the provider.
CREATE INDEX batches_doubtful ON batches (account) WHERE create_no > 1 OR state IN ('submitting', 'unknown');
CREATE INDEX strays_found ON strays (batch_id) WHERE state = 'found';
