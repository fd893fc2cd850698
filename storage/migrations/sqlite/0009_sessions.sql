-- Sessions: walks over typed phase graphs, whose steps are runs. The row is the fold of its events. `graph` is the type
-- as it was when the session was opened, so that another configuration does not move its ground.

CREATE TABLE sessions (
    id              TEXT NOT NULL PRIMARY KEY,
    env             TEXT NOT NULL,
    type            TEXT NOT NULL,
    graph           TEXT NOT NULL,
    metadata        TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('active', 'closed')),
    closing         TEXT CHECK (closing IN ('complete', 'aborted', 'stale', 'exhausted')),
    round           BIGINT NOT NULL CHECK (round >= 1),
    phase           TEXT NOT NULL,
    completed_round BIGINT NOT NULL DEFAULT 0,
    completed_at    BIGINT,
    driver          TEXT,
    first_driver    TEXT,
    resumes         BIGINT NOT NULL DEFAULT 0 CHECK (resumes <= resumes_max),
    resumes_max     BIGINT NOT NULL,
    stale_ms        BIGINT NOT NULL,
    quiet_ms        BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    opened_at       BIGINT NOT NULL,
    moved_at        BIGINT NOT NULL,
    look_at         BIGINT,
    CHECK ((state = 'closed') = (closing IS NOT NULL)),
    CHECK (closing <> 'complete' OR completed_round = round)
);
CREATE INDEX sessions_env ON sessions (env, id);
CREATE INDEX sessions_active ON sessions (env, id) WHERE state = 'active';
-- When the sweep looks at one next; NULL when nothing can come of it any more.
CREATE INDEX sessions_look ON sessions (look_at) WHERE look_at IS NOT NULL;

CREATE TABLE session_events (
    session_id TEXT NOT NULL,
    seq        BIGINT NOT NULL,
    at         BIGINT NOT NULL,
    event      TEXT NOT NULL CHECK (event IN
        ('opened', 'moved', 'completed', 'next_round', 'resumed', 'closed', 'reopened')),
    round      BIGINT NOT NULL,
    phase      TEXT NOT NULL,
    data       TEXT NOT NULL,
    PRIMARY KEY (session_id, seq)
);
-- A round is completed once, and closed once.
CREATE UNIQUE INDEX session_events_once ON session_events (session_id, round, event)
    WHERE event IN ('completed', 'closed');

CREATE INDEX run_records_session ON run_records (session_id, finished_at) WHERE session_id IS NOT NULL;

-- Nobody closes a session, or calls a round complete, without the event that says so.
CREATE TRIGGER sessions_told BEFORE UPDATE ON sessions
WHEN (NEW.state = 'closed' AND OLD.state <> 'closed' AND NOT EXISTS (SELECT 1 FROM session_events
        WHERE session_id = NEW.id AND round = NEW.round AND event = 'closed'))
    OR (NEW.completed_round <> OLD.completed_round AND NOT EXISTS (SELECT 1 FROM session_events
        WHERE session_id = NEW.id AND round = NEW.completed_round AND event = 'completed'))
BEGIN
    SELECT RAISE(ABORT, 'a session is closed or completed only together with its event');
END;
