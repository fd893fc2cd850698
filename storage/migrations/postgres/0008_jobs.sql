-- Jobs over the llm runs that came in over HTTP. Such a job draws them out of `ready` into a pool of its own, which is
-- named after the job. While a job has a run, its row in `runs` is what holds it, and `env` says for which record;
-- it is NULL in pools that were read from a file, and once the record has its end.
ALTER TABLE jobs ADD COLUMN task TEXT;
ALTER TABLE jobs ADD COLUMN draw TEXT;
CREATE UNIQUE INDEX jobs_of_task ON jobs (env, task, source)
    WHERE task IS NOT NULL AND state IN ('created', 'running', 'suspended', 'finishing');
CREATE INDEX jobs_of_env ON jobs (env, created_at, id);

ALTER TABLE runs ADD COLUMN env TEXT;
ALTER TABLE runs ADD COLUMN cancel_requested BIGINT NOT NULL DEFAULT 0;
CREATE INDEX runs_drawn ON runs (env, id) WHERE env IS NOT NULL;

-- Runs that a job had when it was over, and that wait for another one since.
ALTER TABLE pools ADD COLUMN given_back BIGINT NOT NULL DEFAULT 0;
CREATE INDEX pools_left ON pools (name) WHERE queued > 0;
