-- +goose Up

-- Secrets that can't be short-lived: what somebody put in, and the versions of it.
CREATE TABLE IF NOT EXISTS secrets (
    id                   text COLLATE "C" PRIMARY KEY,
    tenant               text NOT NULL,
    name                 text COLLATE "C" NOT NULL CHECK (length(name) <= 128 AND name ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?(/[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$'),
    description          text NOT NULL,
    owner                text NOT NULL CHECK (owner <> ''),
    rotate_every_seconds bigint NOT NULL CHECK (rotate_every_seconds >= 0), -- 0: it is never due
    rotate_fields        text[] NOT NULL,  -- what a rotation makes up anew; empty: all
    hook                 text NOT NULL,    -- '': by hand; 'generate'; else the name of a configured hook
    due_at               timestamptz,      -- when its current version should have been replaced
    rotate_at            timestamptz,      -- when the rotator looks at it next; null: it has nothing to do
    attempts             integer NOT NULL DEFAULT 0, -- of the stage that a rotation is at, failed
    last_error           text,
    versions             integer NOT NULL, -- the last number that was given
    events               integer NOT NULL CHECK (events > 0),
    created_at           timestamptz NOT NULL,
    UNIQUE (tenant, name),
    CHECK (last_error IS NULL OR attempts > 0)
);
CREATE INDEX IF NOT EXISTS secrets_rotate ON secrets (tenant, rotate_at) WHERE rotate_at IS NOT NULL;

-- A version goes pending -> current -> retired -> destroyed, or from any of them to
-- destroyed; a retired one can be made current again. What its value opens to never
-- changes (the seal may be made anew), and it is gone in the statement that destroys it.
CREATE TABLE IF NOT EXISTS secret_versions (
    secret_id    text COLLATE "C" NOT NULL REFERENCES secrets (id),
    version      integer NOT NULL CHECK (version > 0),
    state        text NOT NULL CHECK (state IN ('pending', 'current', 'retired', 'destroyed')),
    origin       text NOT NULL CHECK (origin IN ('put', 'rotation')),
    value        bytea,
    fields       text[] NOT NULL, -- their names; the values are in the seal alone
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    set_at       timestamptz,     -- its hook set it at the target
    verified_at  timestamptz,
    promoted_at  timestamptz,     -- last
    retired_at   timestamptz,     -- last
    destroyed_at timestamptz,
    PRIMARY KEY (secret_id, version),
    CHECK ((state = 'destroyed') = (value IS NULL)),
    CHECK ((state = 'destroyed') = (destroyed_at IS NOT NULL)),
    CHECK (state <> 'current' OR (verified_at IS NOT NULL AND promoted_at IS NOT NULL))
);
CREATE UNIQUE INDEX IF NOT EXISTS secret_versions_current ON secret_versions (secret_id) WHERE state = 'current';
CREATE UNIQUE INDEX IF NOT EXISTS secret_versions_pending ON secret_versions (secret_id) WHERE state = 'pending';

-- What was destroyed stays so, what was made stays as it was made, and no version
-- is forgotten: also where somebody has the database's own password.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION secret_version_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR OLD.state = 'destroyed' THEN
        RAISE EXCEPTION 'version % of secret % is on record for good', OLD.version, OLD.secret_id USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.secret_id <> OLD.secret_id OR NEW.version <> OLD.version OR NEW.fields <> OLD.fields OR (NEW.state = 'pending' AND OLD.state <> 'pending') THEN
        RAISE EXCEPTION 'version % of secret % can''t be made another', OLD.version, OLD.secret_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER secret_version_is_final BEFORE UPDATE OR DELETE ON secret_versions
    FOR EACH ROW EXECUTE FUNCTION secret_version_is_final();

-- Which lease read which version when. There is no foreign key on leases, as
-- everywhere. A row without a version is a fence: its lease was ended before it
-- read anything, and never will.
CREATE TABLE IF NOT EXISTS secret_reads (
    lease_id  text COLLATE "C" PRIMARY KEY,
    id        text COLLATE "C" UNIQUE, -- by which the audit log knows it
    tenant    text NOT NULL,
    secret_id text COLLATE "C",
    version   integer,
    at        timestamptz NOT NULL,
    ended_at  timestamptz,
    FOREIGN KEY (secret_id, version) REFERENCES secret_versions (secret_id, version),
    CHECK ((secret_id IS NULL) = (version IS NULL) AND (version IS NULL) = (id IS NULL)),
    CHECK (version IS NOT NULL OR ended_at IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS secret_reads_of ON secret_reads (secret_id, id);
