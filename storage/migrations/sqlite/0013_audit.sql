-- What somebody did to the system itself, and to whom: told after it was allowed and before it is done.
CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    at     BIGINT NOT NULL,
    node   TEXT NOT NULL,
    env    TEXT NOT NULL,
    -- The key's id; none where no keys are asked for.
    key_id TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    data   TEXT NOT NULL
);
CREATE INDEX audit_env ON audit (env, seq);
