-- Where a new run goes: 0 ready, 1 buffer; 2 and 3 the same for one that pull workers carry. NULL: whoever accepts it
-- puts it somewhere itself. With this a commit that takes runs in is one statement, and each statement is a trip to
-- the connection's thread and back. Basin, lane and rank are made as in Rust (`Basin`, `Lane`, `NewRecord::rank`).
ALTER TABLE run_records ADD COLUMN entry BIGINT;

CREATE TRIGGER run_records_ready AFTER INSERT ON run_records WHEN new.entry IN (0, 2) BEGIN
    INSERT INTO ready (run_id, env, basin, lane, task, rank, due_at, expires_at, epoch, attempts, max_attempts,
        max_duration_ms, since)
    VALUES (new.id, new.env, CASE new.entry WHEN 2 THEN '~pull:' || new.task || CHAR(31) || new.env ELSE new.env END,
        new.queue || CHAR(31) || new.concurrency_key, new.task,
        new.accepted_at - MAX(-9000000000000000, MIN(9000000000000000, new.priority)) * 1000, new.not_before,
        new.expires_at, 0, 0, new.max_attempts, new.max_duration_ms, new.accepted_at);
END;

CREATE TRIGGER run_records_buffer AFTER INSERT ON run_records WHEN new.entry IN (1, 3) BEGIN
    INSERT INTO buffer (run_id, env, basin, lane, task, rank, due_at, expires_at, max_attempts, max_duration_ms,
        accepted_at)
    VALUES (new.id, new.env, CASE new.entry WHEN 3 THEN '~pull:' || new.task || CHAR(31) || new.env ELSE new.env END,
        new.queue || CHAR(31) || new.concurrency_key, new.task,
        new.accepted_at - MAX(-9000000000000000, MIN(9000000000000000, new.priority)) * 1000, new.not_before,
        new.expires_at, new.max_attempts, new.max_duration_ms, new.accepted_at);
END;
