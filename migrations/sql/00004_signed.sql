-- +goose NO TRANSACTION
-- Indexes are made CONCURRENTLY, so that a fleet goes on while they are: that is
-- why there is no transaction, and why each statement may be run again.

-- +goose Up

-- The key that signed the credential (RFC 7638 thumbprint); null where none did.
ALTER TABLE leases ADD COLUMN IF NOT EXISTS signing_key text;

-- The last end of what a key signed: when the key may go.
DROP INDEX CONCURRENTLY IF EXISTS leases_signed;
CREATE INDEX CONCURRENTLY leases_signed ON leases (signing_key, expires_at) WHERE signing_key IS NOT NULL;
-- What a CRL or KRL lists.
DROP INDEX CONCURRENTLY IF EXISTS leases_revoked_early;
CREATE INDEX CONCURRENTLY leases_revoked_early ON leases (signing_key, expires_at)
    WHERE signing_key IS NOT NULL AND revocation = 'expiry' AND ended_at < expires_at;
