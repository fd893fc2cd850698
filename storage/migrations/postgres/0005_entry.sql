-- Used on SQLite; here one statement writes all that an accepted run needs, and this stays NULL.
ALTER TABLE run_records ADD COLUMN entry BIGINT;
