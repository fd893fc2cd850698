-- Runs that come in over HTTP and are carried out by workers. A run is written here once when it is accepted
-- and once when it ends; where it stands in between is which of the narrow tables below holds it: buffer,
-- ready or leases. An open run is in exactly one of them, an ended one in none.

CREATE TABLE run_records (
    id              TEXT NOT NULL,
    env             TEXT NOT NULL,
    task            TEXT NOT NULL,
    queue           TEXT NOT NULL,
    priority        BIGINT NOT NULL,
    payload         TEXT NOT NULL,
    tags            TEXT NOT NULL,
    metadata        TEXT NOT NULL,
    concurrency_key TEXT NOT NULL,
    idempotency_key TEXT,
    source          TEXT NOT NULL CHECK (source IN ('backfill', 'daemon')),
    session_id      TEXT,
    replay_of       TEXT,
    max_attempts    BIGINT NOT NULL CHECK (max_attempts > 0),
    max_duration_ms BIGINT NOT NULL,
    version         BIGINT NOT NULL DEFAULT 1,
    accepted_at     BIGINT NOT NULL,
    not_before      BIGINT NOT NULL,
    expires_at      BIGINT,
    state           TEXT NOT NULL DEFAULT 'open' CHECK (state IN
        ('open', 'succeeded', 'failed', 'cancelled', 'timed_out', 'expired')),
    code            TEXT,
    reason          TEXT,
    output          TEXT,
    epoch           BIGINT,
    attempts        BIGINT,
    started_at      BIGINT,
    finished_at     BIGINT,
    PRIMARY KEY (env, id),
    CHECK ((state = 'open') = (finished_at IS NULL))
) WITH (fillfactor = 75);

-- Of tries that did not end their run: why, and by whom.
ALTER TABLE attempts ADD COLUMN reason TEXT;
ALTER TABLE attempts ADD COLUMN holder TEXT;

-- Those that did not succeed, so that they are found without walking over the others.
CREATE TABLE unsuccessful (
    run_id TEXT NOT NULL PRIMARY KEY,
    env    TEXT NOT NULL,
    state  TEXT NOT NULL CHECK (state IN ('failed', 'cancelled', 'timed_out', 'expired'))
);
CREATE INDEX unsuccessful_env ON unsuccessful (env, state, run_id);

-- Accepted and not yet let through to `ready`, with what it will have there. `parked` says why it never will.
CREATE TABLE buffer (
    run_id          TEXT NOT NULL PRIMARY KEY,
    env             TEXT COLLATE "C" NOT NULL,
    basin           TEXT NOT NULL,
    lane            TEXT NOT NULL,
    task            TEXT NOT NULL,
    rank            BIGINT NOT NULL,
    due_at          BIGINT NOT NULL,
    expires_at      BIGINT,
    max_attempts    BIGINT NOT NULL,
    max_duration_ms BIGINT NOT NULL,
    accepted_at     BIGINT NOT NULL,
    parked          TEXT
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX buffer_env ON buffer (env, rank, run_id) WHERE parked IS NULL;
CREATE INDEX buffer_parked ON buffer (env, run_id) WHERE parked IS NOT NULL;
CREATE INDEX buffer_expires ON buffer (expires_at) WHERE expires_at IS NOT NULL;

-- Waiting to be carried out. `basin` is the env, for pull tasks `~pull:TASK` and the env; `lane` is the queue and
-- the concurrency key; parts are divided by U+001F. `rank` orders a lane: the accept time less the priority in
-- seconds. `due_at` is 0 for what may start now. Basins and lanes are compared byte by byte.
CREATE TABLE ready (
    run_id          TEXT NOT NULL,
    env             TEXT NOT NULL,
    basin           TEXT COLLATE "C" NOT NULL,
    lane            TEXT COLLATE "C" NOT NULL,
    task            TEXT NOT NULL,
    rank            BIGINT NOT NULL,
    due_at          BIGINT NOT NULL,
    expires_at      BIGINT,
    epoch           BIGINT NOT NULL,
    attempts        BIGINT NOT NULL,
    max_attempts    BIGINT NOT NULL,
    max_duration_ms BIGINT NOT NULL,
    since           BIGINT NOT NULL,
    PRIMARY KEY (env, run_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ready_lane ON ready (basin, lane, rank, run_id) WHERE due_at = 0;
CREATE INDEX ready_due ON ready (due_at) WHERE due_at > 0;
CREATE INDEX ready_expires ON ready (expires_at) WHERE expires_at IS NOT NULL;

-- Being carried out: by a node's worker, whose node lease covers it, or by a pull worker until `lease_until`.
-- `since` is when the run became ready, for the wait that it had. A node holds a few thousand at most and they come
-- and go all the time: that they can be found by their holder is not worth an index.
CREATE TABLE leases (
    run_id           TEXT NOT NULL PRIMARY KEY,
    env              TEXT NOT NULL,
    basin            TEXT COLLATE "C" NOT NULL,
    lane             TEXT COLLATE "C" NOT NULL,
    task             TEXT NOT NULL,
    rank             BIGINT NOT NULL,
    expires_at       BIGINT,
    epoch            BIGINT NOT NULL,
    attempts         BIGINT NOT NULL,
    max_attempts     BIGINT NOT NULL,
    max_duration_ms  BIGINT NOT NULL,
    since            BIGINT NOT NULL,
    holder           TEXT NOT NULL,
    token            TEXT,
    lease_until      BIGINT,
    leased_at        BIGINT NOT NULL,
    cancel_requested BIGINT NOT NULL DEFAULT 0,
    CHECK (attempts BETWEEN 1 AND max_attempts),
    CHECK ((token IS NULL) = (lease_until IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX leases_asked ON leases (holder) WHERE cancel_requested = 1;
CREATE INDEX leases_lane ON leases (env, lane);
CREATE INDEX leases_until ON leases (lease_until) WHERE lease_until IS NOT NULL;

-- One row for every cap that somebody claims under; locking it makes the count exact.
CREATE TABLE caps (
    name TEXT NOT NULL PRIMARY KEY
);

-- A key holds for its run's env; `answer` is what its first request was answered with.
CREATE TABLE idempotency (
    env         TEXT NOT NULL,
    key         TEXT NOT NULL,
    run_id      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    answer      TEXT NOT NULL,
    expires_at  BIGINT NOT NULL,
    PRIMARY KEY (env, key)
);
CREATE INDEX idempotency_expires ON idempotency (expires_at);

-- What attempts wrote, append-only; `seq` counts from 0 without a gap per attempt and stream. `bytes` is the
-- stream's length up to and with this chunk.
CREATE TABLE output_chunks (
    run_id TEXT NOT NULL,
    epoch  BIGINT NOT NULL,
    stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    seq    BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    bytes  BIGINT NOT NULL,
    data   BYTEA NOT NULL,
    PRIMARY KEY (run_id, epoch, stream, seq)
);

-- Where a stream ended, and what of it was not kept.
CREATE TABLE output_ends (
    run_id    TEXT NOT NULL,
    epoch     BIGINT NOT NULL,
    stream    TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    bytes     BIGINT NOT NULL,
    dropped   BIGINT NOT NULL,
    PRIMARY KEY (run_id, epoch, stream)
);

CREATE TABLE queues (
    env       TEXT NOT NULL,
    name      TEXT NOT NULL,
    paused_at BIGINT,
    PRIMARY KEY (env, name)
);

-- Keys are kept as digests only; the id is part of the key and names it.
CREATE TABLE api_keys (
    id           TEXT NOT NULL PRIMARY KEY,
    env          TEXT NOT NULL,
    name         TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    scopes       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_keys_env ON api_keys (env, id);

CREATE TABLE pull_workers (
    env          TEXT NOT NULL,
    name         TEXT NOT NULL,
    tasks        TEXT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    PRIMARY KEY (env, name)
);

-- What all nodes of a store must have in common and nobody else may know.
CREATE TABLE store_secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
