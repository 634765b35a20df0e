-- +goose Up

-- Who this installation is. The id stands in every name that is made on a
-- target. system_identifier and database_oid are those of the database that it
-- was born in: a copy (dump and restore, CREATE DATABASE … TEMPLATE) has others,
-- and that is how it finds out that it is one.
CREATE TABLE installation (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id                text NOT NULL CHECK (id ~ '^[0-9a-z]{12}$'),
    system_identifier text NOT NULL,
    database_oid      text NOT NULL,
    created_at        timestamptz NOT NULL
);
INSERT INTO installation (id, system_identifier, database_oid, created_at)
SELECT substr(replace(gen_random_uuid()::text, '-', ''), 1, 12), -- 48 random bits: the version digit comes after these
       (SELECT system_identifier::text FROM pg_control_system()),
       (SELECT oid::text FROM pg_database WHERE datname = current_database()),
       now();

CREATE TABLE tenants (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$')
);
INSERT INTO tenants (id) VALUES ('main');

-- The root of all keyed hashes and seals, wrapped by the sealing key.
CREATE TABLE roots (
    id          text PRIMARY KEY,
    sealing_key text NOT NULL, -- id of the key that wraps it
    wrapped     bytea NOT NULL,
    created_at  timestamptz NOT NULL
);

-- One row a job token. The unique constraint is what decides a replay.
-- No foreign keys on the tables that every exchange writes: each check is a
-- query and a row lock of its own. Tokens and leases are inserted by joining the
-- row of their session, so one without a session can't come to be.
CREATE TABLE sessions (
    id               text COLLATE "C" PRIMARY KEY,
    tenant           text NOT NULL,
    provider         text NOT NULL,
    issuer           text NOT NULL, -- the token's iss
    token_digest     bytea NOT NULL CHECK (length(token_digest) = 32), -- SHA-256 of its signed header and payload
    subject          text NOT NULL,
    claims           json NOT NULL,  -- as they were verified: kept, not searched
    claims_mac       bytea NOT NULL CHECK (length(claims_mac) = 32), -- by a key outside the database: policies decide on these again
    opened_at        timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    token_expires_at timestamptz NOT NULL, -- a tombstone stays until then
    revoked_at       timestamptz,
    events           integer NOT NULL,
    UNIQUE (tenant, provider, issuer, token_digest),
    CHECK (expires_at > opened_at)
);

-- Each exchange has a session token of its own.
CREATE TABLE session_tokens (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    key_id     text NOT NULL, -- of the key that made the hash
    session_id text COLLATE "C" NOT NULL,
    grants     text[] NOT NULL, -- what it may ask for again
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);

CREATE TABLE leases (
    id             text COLLATE "C" PRIMARY KEY,
    tenant         text NOT NULL,
    session_id     text COLLATE "C" NOT NULL,
    session_token  bytea NOT NULL, -- hash of the token of the exchange that made it
    policy         text NOT NULL,
    grant_name     text NOT NULL,
    job            text NOT NULL, -- entry of the policy that matched
    policy_digest  text NOT NULL,
    issuer         text NOT NULL,
    role           text NOT NULL,
    kind           text NOT NULL,
    target         text NOT NULL,
    revocation     text NOT NULL CHECK (revocation IN ('immediate', 'introspection', 'expiry')),
    provider       text NOT NULL,
    subject        text NOT NULL,
    state          text NOT NULL CHECK (state IN ('issuing', 'active', 'revoking', 'revoked', 'expired', 'forgotten')),
    issued_at      timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    max_expires_at timestamptz NOT NULL, -- the latest that renewals can reach
    ttl_seconds    integer NOT NULL,     -- of the grant: what a renewal gives
    renewable      boolean NOT NULL,
    issue_deadline timestamptz NOT NULL, -- on the target, nothing is made for it after this
    settled_at     timestamptz NOT NULL, -- deadline and the target's timeout: "not found" is an answer from here on
    due_at         timestamptz,          -- when the revoker has to look at it next
    ended_at       timestamptz,
    handle         bytea,                -- what it takes to take it back, sealed
    rules          text[] NOT NULL,      -- redaction rules of its grant
    attempts       integer NOT NULL DEFAULT 0,
    last_error     text,
    stuck          boolean NOT NULL DEFAULT false,
    events         integer NOT NULL,     -- how many audit events it has
    CHECK ((state IN ('revoked', 'expired', 'forgotten')) = (due_at IS NULL)),
    CHECK ((state IN ('revoked', 'expired', 'forgotten')) = (ended_at IS NOT NULL)),
    CHECK (NOT stuck OR state = 'revoking'),
    CHECK (expires_at > issued_at AND max_expires_at >= expires_at),
    CHECK (events > 0)
);
CREATE INDEX leases_due ON leases (issuer, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX leases_live_grant ON leases (tenant, policy, grant_name) WHERE state IN ('issuing', 'active');
CREATE INDEX leases_session ON leases (session_id);

-- What a stolen copy of this table gives away: nothing. Each fingerprint is
-- keyed by a key outside the database, and only of values with 128 random bits
-- or more.
CREATE TABLE fingerprints (
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    lease_id    text COLLATE "C" NOT NULL,
    field       text NOT NULL,
    key_id      text NOT NULL,
    scheme      text NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (fingerprint, lease_id)
);

CREATE TABLE redaction_rules (
    id         text PRIMARY KEY,
    tenant     text NOT NULL,
    policy     text NOT NULL,
    grant_name text NOT NULL,
    pattern    text NOT NULL,
    created_at timestamptz NOT NULL
);

-- The body is what the leaf hash and the MAC cover; the columns before it repeat
-- what lists are asked for. The count has no gap within a subject.
CREATE TABLE audit_events (
    id      text COLLATE "C" PRIMARY KEY,
    at      timestamptz NOT NULL,
    tenant  text NOT NULL,
    type    text NOT NULL,
    subject text COLLATE "C" NOT NULL,
    count   integer NOT NULL CHECK (count > 0),
    body    text NOT NULL,
    leaf    bytea NOT NULL CHECK (length(leaf) = 32),
    mac     bytea NOT NULL CHECK (length(mac) = 32),
    key_id  text NOT NULL,
    UNIQUE (subject, count)
);

CREATE TABLE admin_tokens (
    id         text COLLATE "C" PRIMARY KEY,
    tenant     text NOT NULL,
    hash       bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    key_id     text NOT NULL,
    role       text NOT NULL CHECK (role IN ('viewer', 'operator', 'redactor')),
    owner      text NOT NULL,
    os_user    text NOT NULL, -- who ran the command that made it
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    events     integer NOT NULL,
    CHECK (expires_at > created_at)
);

-- One row an issuer: the last time that somebody in the fleet tried its target.
CREATE TABLE probes (
    tenant     text NOT NULL,
    issuer     text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,
    error      text, -- null: it works
    PRIMARY KEY (tenant, issuer)
);
