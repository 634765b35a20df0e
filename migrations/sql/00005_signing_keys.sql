-- +goose Up

-- The keys that sign JWTs, one row each, in the order in which they were made.
-- Private keys are in the HSM, under their labels; a row says how far one is.
CREATE TABLE IF NOT EXISTS signing_keys (
    tenant         text NOT NULL,
    number         integer NOT NULL CHECK (number > 0),
    label          text NOT NULL UNIQUE,    -- in the HSM; never used again
    kid            text COLLATE "C" UNIQUE, -- RFC 7638 thumbprint; null until it is made
    algorithm      text NOT NULL,
    bits           integer NOT NULL,        -- of an RSA key to be made; 0: the default
    public_key     bytea,                   -- SubjectPublicKeyInfo, for the record: the JWKS is made of what the HSM holds
    state          text NOT NULL CHECK (state IN ('making', 'published', 'signing', 'retiring', 'retired', 'revoked')),
    created_at     timestamptz NOT NULL,
    published_at   timestamptz,             -- in the JWKS from here on
    signs_from     timestamptz,             -- not before
    signing_since  timestamptz,
    retiring_since timestamptz,             -- signs no longer, and still verifies
    ended_at       timestamptz,             -- out of the JWKS
    ended_reason   text,
    destroyed_at   timestamptz,             -- the private key, in the HSM
    events         integer NOT NULL,        -- how many audit events it has under its kid
    PRIMARY KEY (tenant, number),
    CHECK (kid IS NOT NULL OR state IN ('making', 'retired')),
    CHECK ((kid IS NULL) = (published_at IS NULL) AND (kid IS NULL) = (signs_from IS NULL) AND (kid IS NULL) = (public_key IS NULL)),
    CHECK (state NOT IN ('signing', 'retiring') OR signing_since IS NOT NULL),
    CHECK (state <> 'retiring' OR retiring_since IS NOT NULL),
    CHECK ((state IN ('retired', 'revoked')) = (ended_at IS NOT NULL)),
    CHECK ((ended_at IS NULL) = (ended_reason IS NULL)),
    CHECK (destroyed_at IS NULL OR ended_at IS NOT NULL)
);
-- One signs, and one is on its way: whoever would make a second one loses here.
CREATE UNIQUE INDEX IF NOT EXISTS signing_keys_signing ON signing_keys (tenant) WHERE state = 'signing';
CREATE UNIQUE INDEX IF NOT EXISTS signing_keys_coming ON signing_keys (tenant) WHERE state IN ('making', 'published');
