-- +goose NO TRANSACTION
-- Each statement may be run again.

-- +goose Up

-- Eight bytes of a value that nobody can tell by its shape, encrypted, and where in
-- the value they stand: what it is found by in a text (package prints says how). Its
-- key isn't in the database. Null: the value has the broker's own shape, or is from
-- the program before.
ALTER TABLE fingerprints ADD COLUMN IF NOT EXISTS anchor bytea;
-- Those of a lease, and those that came since a broker looked last. Rows without one,
-- which is most of them, are not in it.
DROP INDEX CONCURRENTLY IF EXISTS fingerprints_anchored;
CREATE INDEX CONCURRENTLY fingerprints_anchored ON fingerprints (lease_id) WHERE anchor IS NOT NULL;

-- Whose rule it is. The program before knows those of grants alone, and reads the
-- others as such.
ALTER TABLE redaction_rules ADD COLUMN IF NOT EXISTS scope text NOT NULL DEFAULT 'grant';
ALTER TABLE redaction_rules ADD COLUMN IF NOT EXISTS name text NOT NULL DEFAULT ''; -- of one of the server's configuration
ALTER TABLE redaction_rules ADD COLUMN IF NOT EXISTS owner text NOT NULL DEFAULT '';
-- Null: some broker has it in force. It is set when none does any more, and lies as
-- far behind that as logs are kept.
ALTER TABLE redaction_rules ADD COLUMN IF NOT EXISTS until timestamptz;

-- What was found where: a value that is reported a thousand times from one source is
-- one row and one event. The value is the keyed hash that stands in fingerprints,
-- session_tokens or admin_tokens.
CREATE TABLE IF NOT EXISTS leaks (
    id       text COLLATE "C" PRIMARY KEY, -- by which the audit log knows it
    tenant   text NOT NULL,
    value    bytea NOT NULL CHECK (length(value) = 32),
    source   text NOT NULL CHECK (length(source) <= 300),
    subject  text COLLATE "C" NOT NULL, -- the lease, session or admin token; of a value that several leases got the last one
    live     boolean NOT NULL,          -- when it was found first
    actor    text NOT NULL,             -- who found it first
    seen_at  timestamptz NOT NULL,      -- when it was found last, to the hour
    events   integer NOT NULL CHECK (events > 0),
    UNIQUE (tenant, value, source)
);
