-- Of which trace a run is, and whose child: W3C `traceparent`. NULL where nobody sent one and nobody records any.
ALTER TABLE run_records ADD COLUMN traceparent TEXT;
