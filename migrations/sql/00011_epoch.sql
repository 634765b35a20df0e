-- +goose Up

-- A copy of the files of a server (a base backup, a snapshot of the disk, a
-- restore to a point in time) has the identifier and OID of the original, and
-- can't find out from them that it is one. So whoever takes over raises the epoch,
-- which the targets remember: a broker on a copy that has an older one is refused
-- there. 0: nobody ever had to.
ALTER TABLE installation ADD COLUMN IF NOT EXISTS epoch bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0);
ALTER TABLE installation ADD COLUMN IF NOT EXISTS epoch_at timestamptz; -- tokens from before it are void; null: none is
ALTER TABLE installation ADD COLUMN IF NOT EXISTS epoch_why text NOT NULL DEFAULT '' CHECK (epoch_why IN ('', 'promoted', 'new installation'));
-- Of the server, as a broker saw it last: it rises when a standby takes over, and
-- when a backup is restored to a point in time. 0: nobody has looked yet.
ALTER TABLE installation ADD COLUMN IF NOT EXISTS timeline bigint NOT NULL DEFAULT 0;
