-- +goose Up

-- One row a broker that runs, or did within the last day.
CREATE TABLE IF NOT EXISTS brokers (
    id         text COLLATE "C" PRIMARY KEY,
    host       text NOT NULL,
    version    text NOT NULL,
    tasks      text[] NOT NULL, -- what it does once for the fleet
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL
);

-- What an operator turned off, and on again: one row for each name that ever was.
CREATE TABLE IF NOT EXISTS switches (
    tenant      text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('provider', 'policy', 'grant', 'issuer')),
    name        text COLLATE "C" NOT NULL CHECK (name <> '' AND length(name) <= 128), -- of a grant POLICY/GRANT
    turned_off  boolean NOT NULL,
    reason      text NOT NULL CHECK (length(reason) <= 300),
    actor       text NOT NULL,
    changed_at  timestamptz NOT NULL,
    sweep_until timestamptz,               -- its live leases are taken back, those too that come to be on record until then; null: they aren't, or all are
    swept       bigint NOT NULL DEFAULT 0, -- leases that began to be taken back since it was turned off
    events      integer NOT NULL CHECK (events > 0),
    PRIMARY KEY (tenant, kind, name),
    CHECK (sweep_until IS NULL OR turned_off)
);
CREATE INDEX IF NOT EXISTS switches_off ON switches (tenant) WHERE turned_off;
