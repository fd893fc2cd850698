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
