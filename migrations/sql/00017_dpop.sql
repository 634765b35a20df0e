-- +goose NO TRANSACTION
-- Each statement may be run again.

-- +goose Up

-- The key that a session token, and what is a token among its leases, is bound to: the
-- SHA-256 of its public part (RFC 7638). NULL: whoever holds the token may use it.
ALTER TABLE session_tokens ADD COLUMN IF NOT EXISTS dpop_jkt bytea;
ALTER TABLE session_tokens DROP CONSTRAINT IF EXISTS session_tokens_dpop_jkt;
ALTER TABLE session_tokens ADD CONSTRAINT session_tokens_dpop_jkt CHECK (length(dpop_jkt) = 32) NOT VALID;
