-- Nodes of two versions work side by side on PostgreSQL while one replaces the other. A migration that only adds is no
-- matter to the older one; one that takes away what it needs raises `least_level`, and then it does not start.
CREATE TABLE compatibility (
    one         BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    least_level BIGINT NOT NULL
) WITHOUT ROWID;
INSERT INTO compatibility (one, least_level) VALUES (1, 1);

-- What a node understands, for whoever upgrades the others.
ALTER TABLE nodes ADD COLUMN level BIGINT NOT NULL DEFAULT 0;

-- What one node at a time does for all. Whoever holds a role has it for as long as its node lease runs; the epoch
-- counts how often it changed hands.
CREATE TABLE roles (
    name   TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch  BIGINT NOT NULL
) WITHOUT ROWID;
