-- SQLite moves a row that grows within its page, or splits that: there is no room to be kept.
SELECT 1;
