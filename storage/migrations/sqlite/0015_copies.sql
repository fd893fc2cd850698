-- A copy of a store may have forgotten what its original has done since, as a database that was failed over to. When it
-- was made, for as long as nobody has looked into it; the copy carries this from its beginning, its original never.
ALTER TABLE compatibility ADD COLUMN copied_at BIGINT;
-- Used on PostgreSQL only.
ALTER TABLE compatibility ADD COLUMN origin TEXT;
