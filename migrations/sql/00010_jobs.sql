-- +goose NO TRANSACTION
-- Each statement may be run again, and holds its lock no longer than it takes itself.

-- +goose Up

-- Since when a lease is being taken back: a revocation is overdue by that, whatever
-- end its lease had. Rows of the program before have none, and go by their end.
ALTER TABLE leases ADD COLUMN IF NOT EXISTS revoking_at timestamptz;

-- What is being taken back is few beside what lives: this is how it is counted,
-- listed and marked without reading the rest. A partitioned table takes no index
-- CONCURRENTLY: leases can't be written while this one is made, some seconds for ten
-- million.
CREATE INDEX IF NOT EXISTS leases_revoking ON leases (issuer, id) WHERE state = 'revoking';

-- Revocations of many leases: which, who wants it and why, and how far it is.
CREATE TABLE IF NOT EXISTS revocation_jobs (
    id          text COLLATE "C" PRIMARY KEY,
    tenant      text NOT NULL,
    selector    json NOT NULL,
    actor       text NOT NULL,
    reason      text NOT NULL CHECK (reason <> ''),
    state       text NOT NULL CHECK (state IN ('running', 'paused', 'done')),
    created_at  timestamptz NOT NULL,
    until_id    text COLLATE "C" NOT NULL, -- leases from this id on were issued later, and are not meant
    place       text[] NOT NULL,           -- where the walk over the live leases is
    walks       integer NOT NULL DEFAULT 0,-- how many walks have come to their end
    matched     integer NOT NULL,          -- counted when it was made
    at_least    boolean NOT NULL,          -- there were more than were counted
    begun       integer NOT NULL DEFAULT 0,
    ended       integer NOT NULL DEFAULT 0,-- of those begun
    claimed_until timestamptz NOT NULL,    -- a broker is at it until then
    ended_at    timestamptz,
    events      integer NOT NULL CHECK (events > 0),
    CHECK ((state = 'done') = (ended_at IS NOT NULL)),
    CHECK (ended <= begun)
);
CREATE INDEX IF NOT EXISTS revocation_jobs_open ON revocation_jobs (tenant, id) WHERE state <> 'done';

-- The leases that jobs have begun to revoke. Those that wait are taken when
-- nothing is due by its own end; until then the lease is due at its own end, as
-- if nobody had asked. A row goes when its lease has ended and was counted.
CREATE TABLE IF NOT EXISTS revocation_queue (
    lease_id text COLLATE "C" PRIMARY KEY,
    job_id   text COLLATE "C" NOT NULL,
    issuer   text NOT NULL,
    waiting  boolean NOT NULL DEFAULT true
);
CREATE INDEX IF NOT EXISTS revocation_queue_waiting ON revocation_queue (issuer, job_id, lease_id) WHERE waiting;
CREATE INDEX IF NOT EXISTS revocation_queue_taken ON revocation_queue (job_id, lease_id) WHERE NOT waiting;
