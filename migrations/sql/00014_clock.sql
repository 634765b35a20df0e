-- +goose NO TRANSACTION
-- Each statement may be run again.

-- +goose Up

-- The latest time that the database's clock ever showed, within a few seconds:
-- brokers raise it while they look at the clock. It is replicated with
-- everything else, so a standby whose clock is late finds out when it is
-- promoted. One row, changed in place: half of its page is kept free for that.
CREATE TABLE IF NOT EXISTS clock (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    highest timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO clock (highest) VALUES (clock_timestamp()) ON CONFLICT DO NOTHING;
