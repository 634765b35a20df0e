-- +goose NO TRANSACTION
-- Indexes are made CONCURRENTLY, so that a fleet goes on while they are: that is
-- why there is no transaction, and why each statement may be run again.

-- +goose Up

-- SHA-256 of tenant, provider, iss and jti; null where the token had no jti.
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS jti bytea;
-- Which job the token is of: one job can get many tokens.
ALTER TABLE sessions ADD COLUMN IF NOT EXISTS job_key bytea;
-- The same on each lease, with whose job it is: what limits count.
ALTER TABLE leases ADD COLUMN IF NOT EXISTS job_key bytea;
ALTER TABLE leases ADD COLUMN IF NOT EXISTS whose bytea;
-- Of an exchange that came with an Idempotency-Key: a hash of the bearer token
-- and the key, and one of what was asked for. The key is null again once a retry
-- has taken the exchange's place.
ALTER TABLE session_tokens ADD COLUMN IF NOT EXISTS retry_key bytea;
ALTER TABLE session_tokens ADD COLUMN IF NOT EXISTS request bytea;

-- NOT VALID: rows from before have none, and needn't be read.
ALTER TABLE sessions DROP CONSTRAINT IF EXISTS sessions_keys;
ALTER TABLE sessions ADD CONSTRAINT sessions_keys CHECK (length(jti) = 32 AND length(job_key) = 16) NOT VALID;
ALTER TABLE leases DROP CONSTRAINT IF EXISTS leases_keys;
ALTER TABLE leases ADD CONSTRAINT leases_keys CHECK (length(job_key) = 16 AND length(whose) = 16) NOT VALID;
ALTER TABLE session_tokens DROP CONSTRAINT IF EXISTS session_tokens_retry;
ALTER TABLE session_tokens ADD CONSTRAINT session_tokens_retry CHECK (length(retry_key) = 16 AND length(request) = 16) NOT VALID;

-- A jti stands in one token: what a second one says is not believed.
DROP INDEX CONCURRENTLY IF EXISTS sessions_jti;
CREATE UNIQUE INDEX CONCURRENTLY sessions_jti ON sessions (jti) WHERE jti IS NOT NULL;
-- What one tenant, or one job of it, holds now: as large as what lives, not as
-- what is remembered.
DROP INDEX CONCURRENTLY IF EXISTS leases_live_job;
CREATE INDEX CONCURRENTLY leases_live_job ON leases (whose, job_key) WHERE state IN ('issuing', 'active');
DROP INDEX CONCURRENTLY IF EXISTS session_tokens_retry_key;
CREATE INDEX CONCURRENTLY session_tokens_retry_key ON session_tokens (retry_key) WHERE retry_key IS NOT NULL;
