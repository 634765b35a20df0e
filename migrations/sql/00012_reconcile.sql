-- +goose Up

-- Each comparison of what stands on a target with the leases. It has taken effect
-- in full when it ended without an error and wasn't dry.
CREATE TABLE IF NOT EXISTS reconciliations (
    id         text COLLATE "C" PRIMARY KEY,
    tenant     text NOT NULL,
    issuer     text NOT NULL,
    actor      text NOT NULL,             -- daypassd on schedule, or who asked for it
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,               -- null: under way, or its broker died
    epoch      bigint NOT NULL DEFAULT 0, -- of the installation, when it began
    dry_run    boolean NOT NULL,
    forced     boolean NOT NULL DEFAULT false, -- an operator let it take back more than a few
    listed     integer NOT NULL DEFAULT 0,
    young      integer NOT NULL DEFAULT 0, -- without a live lease, but not for long enough to be sure
    alien      integer NOT NULL DEFAULT 0, -- told by the issuer, and not this installation's: left alone
    orphans    integer NOT NULL DEFAULT 0,
    revoked    integer NOT NULL DEFAULT 0, -- of the orphans
    missing    integer NOT NULL DEFAULT 0, -- live leases whose credential is gone
    error      text
);
CREATE INDEX IF NOT EXISTS reconciliations_of ON reconciliations (tenant, issuer, started_at);

-- Who compares at the moment. A claim that isn't renewed runs out.
CREATE TABLE IF NOT EXISTS reconciliation_claims (
    tenant text NOT NULL,
    issuer text NOT NULL,
    run    text COLLATE "C" NOT NULL,
    until  timestamptz NOT NULL,
    PRIMARY KEY (tenant, issuer)
);

-- Credentials of this installation without a live lease.
CREATE TABLE IF NOT EXISTS orphans (
    id         text COLLATE "C" PRIMARY KEY, -- by which the audit log knows it
    tenant     text NOT NULL,
    issuer     text NOT NULL,
    name       text NOT NULL, -- on the target
    lease_id   text COLLATE "C" NOT NULL, -- '': nothing tells
    why        text NOT NULL,
    created_at timestamptz,   -- by the target; null: it doesn't say
    found_at   timestamptz NOT NULL,
    seen_in    text COLLATE "C" NOT NULL, -- the last reconciliation that listed it
    attempts   integer NOT NULL DEFAULT 0, -- that failed
    last_error text,
    state      text NOT NULL CHECK (state IN ('young', 'found', 'revoked', 'gone')),
    ended_at   timestamptz,
    events     integer NOT NULL CHECK (events >= 0),
    CHECK ((state IN ('revoked', 'gone')) = (ended_at IS NOT NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS orphans_open ON orphans (tenant, issuer, name) WHERE ended_at IS NULL;
CREATE INDEX IF NOT EXISTS orphans_ended ON orphans (ended_at) WHERE ended_at IS NOT NULL;

-- Live leases whose credential isn't on the target any more. A table of its own:
-- the row of the lease is written by every renewal and revocation.
CREATE TABLE IF NOT EXISTS missing_credentials (
    lease_id text COLLATE "C" PRIMARY KEY,
    tenant   text NOT NULL,
    issuer   text NOT NULL,
    since    timestamptz NOT NULL -- when it was first missed
);
CREATE INDEX IF NOT EXISTS missing_credentials_of ON missing_credentials (tenant, issuer, lease_id);
