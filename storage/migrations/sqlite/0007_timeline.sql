-- Used on PostgreSQL only.
ALTER TABLE compatibility ADD COLUMN timeline BIGINT;
