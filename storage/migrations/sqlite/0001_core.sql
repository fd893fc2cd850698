-- What a store holds from its first day. Times are milliseconds since 1970 UTC, money is nano-dollars,
-- ids are text, states are words; every state column lists its words, and half-states cannot be written.

CREATE TABLE nodes (
    id          TEXT NOT NULL PRIMARY KEY,
    host        TEXT NOT NULL,
    pid         BIGINT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('starting', 'live', 'draining', 'gone')),
    started_at  BIGINT NOT NULL,
    lease_until BIGINT NOT NULL
) WITHOUT ROWID;

-- A pool's runs, counted in the transaction that changes them, so that no page ever has to count rows.
CREATE TABLE pools (
    name           TEXT NOT NULL PRIMARY KEY,
    env            TEXT NOT NULL,
    total          BIGINT NOT NULL DEFAULT 0,
    queued         BIGINT NOT NULL DEFAULT 0 CHECK (queued >= 0),
    running        BIGINT NOT NULL DEFAULT 0 CHECK (running >= 0),
    succeeded      BIGINT NOT NULL DEFAULT 0,
    failed         BIGINT NOT NULL DEFAULT 0,
    reserved_nanos BIGINT NOT NULL DEFAULT 0 CHECK (reserved_nanos >= 0),
    spent_nanos    BIGINT NOT NULL DEFAULT 0,
    unpriced       BIGINT NOT NULL DEFAULT 0,
    CHECK (queued + running + succeeded + failed = total)
) WITHOUT ROWID;

CREATE TABLE jobs (
    id          TEXT NOT NULL PRIMARY KEY,
    env         TEXT NOT NULL,
    pool        TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source IN ('backfill', 'daemon')),
    state       TEXT NOT NULL CHECK (state IN
        ('created', 'running', 'suspended', 'finishing', 'finished', 'cancelled', 'failed')),
    reason      TEXT CHECK (reason IN ('already_empty', 'drained', 'no_progress', 'max_rounds',
        'wallclock', 'spend_cap', 'degraded', 'no_op')),
    detail      TEXT,
    label       TEXT NOT NULL,
    input_sha256 TEXT NOT NULL,
    scope       TEXT NOT NULL,
    ceilings    TEXT NOT NULL,
    expected    BIGINT NOT NULL,
    round       BIGINT NOT NULL DEFAULT 0,
    first_round BIGINT NOT NULL DEFAULT 1,
    hold_until  BIGINT NOT NULL DEFAULT 0,
    learned_max_requests BIGINT,
    epoch       BIGINT NOT NULL DEFAULT 0,
    holder      TEXT,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    finished_at BIGINT,
    CHECK ((state IN ('finished', 'cancelled', 'failed')) = (finished_at IS NOT NULL)),
    CHECK ((state IN ('finishing', 'finished')) = (reason IS NOT NULL))
);
-- At most one live job per env, pool and source (invariant 18).
CREATE UNIQUE INDEX jobs_live ON jobs (env, pool, source)
    WHERE state IN ('created', 'running', 'suspended', 'finishing');
CREATE INDEX jobs_input ON jobs (input_sha256);
CREATE INDEX jobs_created ON jobs (created_at, id);

CREATE TABLE job_rounds (
    job_id         TEXT NOT NULL,
    round          BIGINT NOT NULL,
    pending_before BIGINT NOT NULL,
    pending_after  BIGINT,
    carried        BIGINT,
    errored        BIGINT,
    started_at     BIGINT NOT NULL,
    ended_at       BIGINT,
    PRIMARY KEY (job_id, round),
    CHECK ((ended_at IS NULL) = (carried IS NULL))
) WITHOUT ROWID;

CREATE TABLE job_events (
    seq    INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL,
    at     BIGINT NOT NULL,
    epoch  BIGINT NOT NULL,
    event  TEXT NOT NULL,
    data   TEXT NOT NULL
);
CREATE INDEX job_events_job ON job_events (job_id, seq);

-- Narrow on purpose: what a claim and a settlement touch. Bodies and results live beside it.
CREATE TABLE runs (
    id            TEXT NOT NULL PRIMARY KEY,
    pool          TEXT NOT NULL,
    seq           BIGINT NOT NULL,
    custom_id     TEXT NOT NULL,
    pack          TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('buffered', 'delayed', 'queued', 'running',
        'succeeded', 'failed', 'cancelled', 'timed_out', 'expired')),
    epoch         BIGINT NOT NULL DEFAULT 0,
    attempts      BIGINT NOT NULL DEFAULT 0,
    max_attempts  BIGINT NOT NULL,
    due_round     BIGINT NOT NULL DEFAULT 0,
    bytes         BIGINT NOT NULL,
    reserve_nanos BIGINT,
    carrier       TEXT,
    code          TEXT,
    accepted_at   BIGINT NOT NULL,
    finished_at   BIGINT,
    CHECK (attempts BETWEEN 0 AND max_attempts),
    CHECK ((state = 'running') = (carrier IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled', 'timed_out', 'expired')) = (finished_at IS NOT NULL))
) WITHOUT ROWID;
CREATE UNIQUE INDEX runs_order ON runs (pool, seq);
CREATE INDEX runs_queued ON runs (pool, due_round, pack, seq) WHERE state = 'queued';
CREATE INDEX runs_carried ON runs (carrier, seq) WHERE carrier IS NOT NULL;

CREATE TABLE run_bodies (
    run_id TEXT NOT NULL PRIMARY KEY,
    body   TEXT NOT NULL
);

-- The last result line of each run, in the provider's own form, with the caller's own custom_id.
CREATE TABLE run_results (
    run_id TEXT NOT NULL PRIMARY KEY,
    epoch  BIGINT NOT NULL,
    line   TEXT NOT NULL
);

CREATE TABLE batches (
    id                TEXT NOT NULL PRIMARY KEY,
    env               TEXT NOT NULL,
    pool              TEXT NOT NULL,
    job_id            TEXT NOT NULL,
    source            TEXT NOT NULL CHECK (source IN ('backfill', 'daemon')),
    round             BIGINT NOT NULL,
    provider          TEXT NOT NULL,
    account           TEXT NOT NULL,
    pack              TEXT NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('planned', 'submitting', 'unknown', 'submitted',
        'cancelling', 'ended', 'collected', 'abandoned')),
    epoch             BIGINT NOT NULL DEFAULT 0,
    holder            TEXT,
    wire_key          TEXT NOT NULL UNIQUE,
    create_no         BIGINT NOT NULL DEFAULT 1,
    manifest          TEXT NOT NULL,
    requests          BIGINT NOT NULL CHECK (requests > 0),
    body_bytes        BIGINT NOT NULL,
    upload_started_at BIGINT,
    input_file_id     TEXT,
    lane_cursor       TEXT,
    intent_at         BIGINT,
    provider_batch_id TEXT,
    provisional       BIGINT NOT NULL DEFAULT 0,
    submitted_at      BIGINT,
    provider_status   TEXT,
    output_ref        TEXT,
    error_ref         TEXT,
    ended_at          BIGINT,
    first_absent_at   BIGINT,
    next_at           BIGINT NOT NULL DEFAULT 0,
    strikes           BIGINT NOT NULL DEFAULT 0,
    reserved_nanos    BIGINT NOT NULL DEFAULT 0,
    spent_nanos       BIGINT NOT NULL DEFAULT 0,
    price_version     TEXT NOT NULL,
    succeeded         BIGINT NOT NULL DEFAULT 0,
    errored           BIGINT NOT NULL DEFAULT 0,
    uncounted         BIGINT NOT NULL DEFAULT 0,
    reason            TEXT,
    created_at        BIGINT NOT NULL,
    finished_at       BIGINT,
    CHECK ((state IN ('collected', 'abandoned')) = (finished_at IS NOT NULL)),
    CHECK (state NOT IN ('submitted', 'cancelling', 'ended', 'collected') OR provider_batch_id IS NOT NULL),
    CHECK (state NOT IN ('submitting', 'unknown') OR intent_at IS NOT NULL)
);
CREATE UNIQUE INDEX batches_provider ON batches (account, provider_batch_id) WHERE provider_batch_id IS NOT NULL;
CREATE INDEX batches_live ON batches (next_at) WHERE state NOT IN ('collected', 'abandoned');
CREATE INDEX batches_pool ON batches (pool, round);
CREATE INDEX batches_created ON batches (created_at, id);

CREATE TABLE batch_events (
    seq      INTEGER PRIMARY KEY,
    batch_id TEXT NOT NULL,
    at       BIGINT NOT NULL,
    epoch    BIGINT NOT NULL,
    event    TEXT NOT NULL,
    data     TEXT NOT NULL
);
CREATE INDEX batch_events_batch ON batch_events (batch_id, seq);

-- One try of a run. A request inside a provider batch is an attempt that also has the provider's verdict.
CREATE TABLE attempts (
    run_id     TEXT NOT NULL,
    epoch      BIGINT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('leased', 'started', 'succeeded', 'failed', 'cancelled',
        'timed_out', 'expired', 'lost', 'declined')),
    batch_id   TEXT,
    batch_pos  BIGINT,
    verdict    TEXT CHECK (verdict IN ('open', 'succeeded', 'errored', 'expired', 'canceled', 'refused', 'missing')),
    code       TEXT,
    cost_nanos BIGINT,
    leased_at  BIGINT NOT NULL,
    settled_at BIGINT,
    PRIMARY KEY (run_id, epoch),
    CHECK ((state IN ('leased', 'started')) = (settled_at IS NULL)),
    CHECK ((batch_id IS NULL) = (verdict IS NULL))
) WITHOUT ROWID;
-- A run has at most one attempt under way (invariant 2).
CREATE UNIQUE INDEX attempts_live ON attempts (run_id) WHERE state IN ('leased', 'started');
CREATE UNIQUE INDEX attempts_batch ON attempts (batch_id, batch_pos) WHERE batch_id IS NOT NULL;

-- Provider batches that were taken for one of ours: duplicates, booked and cancelled, and foreign ones.
CREATE TABLE strays (
    account           TEXT NOT NULL,
    provider_batch_id TEXT NOT NULL,
    batch_id          TEXT NOT NULL,
    requests          BIGINT NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('found', 'cancelled', 'foreign')),
    found_at          BIGINT NOT NULL,
    PRIMARY KEY (account, provider_batch_id)
) WITHOUT ROWID;
