-- A copy of a store may have forgotten what its original has done since, as a database that was failed over to. Set by
-- hand, for a copy that cannot be told from its original: when that was, for as long as nobody has looked into it.
ALTER TABLE compatibility ADD COLUMN copied_at BIGINT;
-- The cluster, the database and this very table, as PostgreSQL numbers them: a dump that is restored has other numbers.
ALTER TABLE compatibility ADD COLUMN origin TEXT;
