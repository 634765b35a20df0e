-- +goose NO TRANSACTION
-- Each statement may be run again.

-- +goose Up

-- Which sealing keys the installation has taken up, and when: what they wrap is
-- wrapped anew by the latest, and by no other.
CREATE TABLE IF NOT EXISTS sealing_keys (
    id         text PRIMARY KEY,
    adopted_at timestamptz NOT NULL
);

-- The keys that seal values of rows, each wrapped by a sealing key. One of each
-- tenant and purpose is current: whoever inserts it first decides which.
CREATE TABLE IF NOT EXISTS data_keys (
    id           text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
    tenant       text NOT NULL,
    purpose      text NOT NULL,
    sealing_key  text NOT NULL, -- id of the key that wraps it
    wrapped      bytea,
    seals        bigint NOT NULL DEFAULT 0, -- no more than these: brokers take them in blocks
    created_at   timestamptz NOT NULL,
    retired_at   timestamptz, -- seals nothing from then on, but for what brokers hold opened
    lost_at      timestamptz, -- the sealing key that wraps it is lost
    destroyed_at timestamptz,
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK (retired_at IS NOT NULL OR (destroyed_at IS NULL AND lost_at IS NULL)),
    CHECK (seals BETWEEN 0 AND 4294967296)
);
CREATE UNIQUE INDEX IF NOT EXISTS data_keys_current ON data_keys (tenant, purpose) WHERE retired_at IS NULL;

-- A root that is retired makes no hash any more; it may still verify old ones.
ALTER TABLE roots ADD COLUMN IF NOT EXISTS retired_at timestamptz;
ALTER TABLE roots ADD COLUMN IF NOT EXISTS lost_at timestamptz;
CREATE UNIQUE INDEX IF NOT EXISTS roots_current ON roots ((true)) WHERE retired_at IS NULL;
