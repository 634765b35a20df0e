-- +goose NO TRANSACTION
-- The index is made CONCURRENTLY, so that a fleet goes on while it is: that is
-- why there is no transaction, and why each statement may be run again.

-- +goose Up

-- What was asked for: with the session's claims, all that the decision was made
-- on. There is no index by request: both ids begin with their time.
ALTER TABLE leases ADD COLUMN IF NOT EXISTS request_id text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN IF NOT EXISTS asked_ttl_seconds integer NOT NULL DEFAULT 0; -- 0: the job didn't say
ALTER TABLE leases ADD COLUMN IF NOT EXISTS ip text NOT NULL DEFAULT '';                  -- who sent it; '': not known

-- All that lives, in an order by which it can be read page by page.
DROP INDEX CONCURRENTLY IF EXISTS leases_live;
CREATE INDEX CONCURRENTLY leases_live ON leases (tenant, policy, grant_name, id) WHERE state IN ('issuing', 'active');
DROP INDEX CONCURRENTLY IF EXISTS leases_live_grant;

-- One row a request that was refused: of jobs whose ids are those of a policy's
-- job entry all of them, of strangers a few (sampled). What was allowed stands
-- in leases and sessions.
CREATE TABLE IF NOT EXISTS denials (
    id                text COLLATE "C" PRIMARY KEY,
    tenant            text NOT NULL,
    request_id        text COLLATE "C" NOT NULL UNIQUE,
    at                timestamptz NOT NULL,
    provider          text NOT NULL,
    issuer            text NOT NULL, -- the token's iss
    subject           text NOT NULL,
    claims            json NOT NULL, -- as they were verified
    claims_mac        bytea NOT NULL CHECK (length(claims_mac) = 32), -- by a key outside the database
    token_expires_at  timestamptz NOT NULL,
    grant_name        text NOT NULL, -- POLICY/GRANT, as it was asked for
    asked_ttl_seconds integer NOT NULL,
    ip                text NOT NULL,
    policy_digest     text NOT NULL, -- of the set that refused it
    detail            text NOT NULL, -- why, for operators
    sampled           boolean NOT NULL
);
DROP INDEX CONCURRENTLY IF EXISTS denials_sampled;
CREATE INDEX CONCURRENTLY denials_sampled ON denials (id) WHERE sampled;

-- The digests of sets of policies that an operator confirmed, for all brokers.
CREATE TABLE IF NOT EXISTS policy_confirmations (
    tenant text NOT NULL,
    digest text NOT NULL,
    actor  text NOT NULL,
    at     timestamptz NOT NULL,
    PRIMARY KEY (tenant, digest)
);
