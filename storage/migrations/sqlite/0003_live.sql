-- Requests that are called one by one, shapes that were tried before a large batch, and what a provider's
-- queue is known to take.

ALTER TABLE batches ADD COLUMN mode TEXT NOT NULL DEFAULT 'batch' CHECK (mode IN ('batch', 'live', 'canary'));

CREATE TABLE canaries (
    account  TEXT NOT NULL,
    pack     TEXT NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('trying', 'passed', 'refused', 'unclear')),
    batch_id TEXT NOT NULL,
    code     TEXT,
    message  TEXT,
    tried_at BIGINT NOT NULL,
    PRIMARY KEY (account, pack),
    CHECK ((state = 'refused') = (code IS NOT NULL)),
    CHECK ((state = 'refused') = (message IS NOT NULL))
) WITHOUT ROWID;

-- Bytes of request bodies that may be queued at once; absent until a provider has refused more.
CREATE TABLE queue_limits (
    account    TEXT NOT NULL,
    model      TEXT NOT NULL,
    body_bytes BIGINT NOT NULL CHECK (body_bytes >= 0),
    learned_at BIGINT NOT NULL,
    PRIMARY KEY (account, model)
) WITHOUT ROWID;
