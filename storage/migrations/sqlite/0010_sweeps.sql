-- How each kind of sweep last went, and where one that walks goes on.
CREATE TABLE sweeps (
    kind         TEXT NOT NULL PRIMARY KEY,
    last_at      BIGINT NOT NULL,
    took_ms      BIGINT NOT NULL,
    found        BIGINT NOT NULL,
    found_in_all BIGINT NOT NULL,
    node         TEXT NOT NULL,
    cursor       TEXT
);

-- Somebody wants it stopped at its provider; whoever follows it asks there.
ALTER TABLE batches ADD COLUMN cancel_wanted BIGINT NOT NULL DEFAULT 0;
