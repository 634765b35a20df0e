-- +goose Up

-- The audit log's order: which event has which number, and its leaf hash. Events
-- get their place after their commit, by one broker at a time, so that no exchange
-- waits for another's. There is no foreign key: retention drops events, and never this.
CREATE TABLE IF NOT EXISTS audit_log (
    seq      bigint PRIMARY KEY CHECK (seq >= 0),
    event_id text COLLATE "C" NOT NULL UNIQUE,
    leaf     bytea NOT NULL CHECK (length(leaf) = 32)
);

-- Hashes of the tree's complete subtrees of 256 leaves and more (level 8 and up):
-- two for 256 events. Those below are made from their leaves when they are asked
-- for, which takes one short read, and a row for each would double what is written.
CREATE TABLE IF NOT EXISTS audit_nodes (
    level  integer NOT NULL CHECK (level BETWEEN 8 AND 48),
    number bigint NOT NULL CHECK (number >= 0),
    hash   bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, number)
);

-- Public keys that sign, or signed, checkpoints: kept for ever.
CREATE TABLE IF NOT EXISTS audit_keys (
    kid          text COLLATE "C" PRIMARY KEY, -- RFC 7638 thumbprint
    verifier_key text NOT NULL,                -- as C2SP signed-note writes it
    algorithm    text NOT NULL,
    adopted_at   timestamptz NOT NULL
);

-- Signed statements of what the first `size` events are.
CREATE TABLE IF NOT EXISTS audit_checkpoints (
    size bigint PRIMARY KEY CHECK (size > 0),
    root bytea NOT NULL CHECK (length(root) = 32),
    note text NOT NULL,
    kid  text COLLATE "C" NOT NULL,
    at   timestamptz NOT NULL
);

-- How far the slow pass over the events came: all before it have their places.
CREATE TABLE IF NOT EXISTS audit_sequencer (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    settled  text COLLATE "C" NOT NULL,
    begins   text COLLATE "C" NOT NULL DEFAULT '', -- events before it are of the installation that this one was copied from
    founded  boolean NOT NULL -- what was there before the log has its place
);
INSERT INTO audit_sequencer (settled, founded) VALUES ('', false) ON CONFLICT DO NOTHING;

-- The log only grows. This keeps mistakes from it, and whoever owns the tables can
-- take it away: what proves that nobody did are checkpoints that are kept elsewhere.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION audit_log_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% only grows', TG_TABLE_NAME USING ERRCODE = 'check_violation';
END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER audit_log_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_only_grows();
CREATE OR REPLACE TRIGGER audit_nodes_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_only_grows();
CREATE OR REPLACE TRIGGER audit_keys_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_keys
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_only_grows();
