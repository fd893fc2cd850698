-- Made by somebody else, under custom ids of their own: its results are told apart by those and not by its key.
ALTER TABLE batches ADD COLUMN imported BIGINT NOT NULL DEFAULT 0;
