-- The history that the database is on, as PostgreSQL counts them: it begins a new one when a standby is promoted and
-- when a backup is brought up, and may then have forgotten what was committed on the one before. NULL: not looked yet.
ALTER TABLE compatibility ADD COLUMN timeline BIGINT;
