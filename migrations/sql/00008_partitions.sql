-- +goose NO TRANSACTION
-- Leases and audit events become tables of one partition a week, by their ids,
-- which begin with their time: what is old is dropped as a table, and what an
-- exchange touches is as small as a week.
--
-- The table that was there becomes the partition of all that is older: nothing is
-- copied, and brokers of the version before go on writing to the same names. Each
-- block may be run again; locks are asked for with a short timeout, so that
-- exchanges don't queue behind one that waits.

-- +goose Up

-- The smallest id of what begins at a time: what ids.From is in the program.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION id_floor(prefix text, at timestamptz) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT prefix || string_agg(substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', ((floor(extract(epoch FROM at) * 1000)::bigint >> (5 * n)) & 31)::int + 1, 1), '' ORDER BY n DESC)
        || repeat('0', 16)
    FROM generate_series(0, 9) AS n
$$;
-- +goose StatementEnd

-- Gives a partition what a partitioned table can't pass on. Each change of a
-- lease leaves a dead row, and lists of what is due or live read over it until
-- vacuum has come: it comes after a fiftieth of the rows, not after a fifth.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION set_up_partition(parent text, partition text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05)', partition);
    -- These are not on the parent, because the partition of what is older has others in
    -- their place. The id stands in the first so that no plan prefers another index
    -- for the bound by which partitions are left aside.
    IF parent = 'leases' AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = partition::regclass AND a.attname = 'whose' AND pg_get_expr(i.indpred, i.indrelid) LIKE '%ended_at%') THEN
        EXECUTE format('CREATE INDEX %I ON %I (whose, job_key, id) WHERE ended_at IS NULL AND state <> ''revoking''', partition || '_held', partition);
    END IF;
    IF parent = 'audit_events' AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = partition::regclass AND a.attname = 'subject') THEN
        EXECUTE format('CREATE INDEX %I ON %I (subject)', partition || '_subject', partition);
    END IF;
END $$;
-- +goose StatementEnd

-- Makes the partition of the week (from Monday, UTC) that a time is in, and says
-- whether it had to. Rows of that week which went to the partition of what has no
-- other are moved. ATTACH locks out nobody who reads or writes the parent, CREATE
-- … PARTITION OF would.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION add_partition(parent text, prefix text, at timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    monday timestamp := date_trunc('week', at AT TIME ZONE 'UTC');
    partition text := parent || '_' || to_char(monday, 'YYYYMMDD');
    lo text := id_floor(prefix, monday AT TIME ZONE 'UTC');
    hi text := id_floor(prefix, (monday + interval '7 days') AT TIME ZONE 'UTC');
    covered boolean;
    stray boolean;
BEGIN
    -- One that is there, or the one of all that is older.
    SELECT bool_or(bounds[1] IS NULL AND bounds[2] >= hi OR bounds[1] <= lo AND bounds[2] >= hi) INTO covered
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (SELECT ARRAY[(regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']*)''\)'))[1],
        (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']*)''\)'))[1]] COLLATE "C" AS bounds) b
    WHERE i.inhparent = parent::regclass;
    IF covered THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    PERFORM set_up_partition(parent, partition);
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE id >= %L AND id < %L)', parent || '_default', lo, hi) INTO stray;
    IF stray THEN
        EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
        EXECUTE format('WITH moved AS (DELETE FROM %I WHERE id >= %L AND id < %L RETURNING *) INSERT INTO %I SELECT * FROM moved', parent || '_default', lo, hi, partition);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, lo, hi);
    RETURN true;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE PROCEDURE partition_by_week(parent text, prefix text, indexes text[]) LANGUAGE plpgsql AS $$
DECLARE
    monday timestamp;
    before text;
    bound text;
    filled boolean;
    ready boolean := false;
    command text;
    old text;
BEGIN
    IF (SELECT relkind = 'p' FROM pg_class WHERE oid = parent::regclass) THEN
        RETURN;
    END IF;
    LOOP
        FOR try IN 1..100 LOOP
            BEGIN
                SET LOCAL lock_timeout = '1s';
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent);
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                IF try = 100 THEN
                    RAISE;
                END IF;
                PERFORM pg_sleep(0.5);
            END;
        END LOOP;
        EXIT WHEN ready;
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', parent) INTO filled;
        -- An empty table takes no row from here on. Of one with rows the check takes
        -- its time, while rows are added: it ends well after all of that is over.
        monday := date_trunc('week', (now() + CASE WHEN filled THEN interval '21 days' ELSE interval '0' END) AT TIME ZONE 'UTC');
        before := parent || '_before_' || to_char(monday, 'YYYYMMDD');
        bound := id_floor(prefix, monday AT TIME ZONE 'UTC');
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS %I', parent, parent || '_before');
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (id < %L) NOT VALID', parent, parent || '_before', bound);
        ready := true;
        IF filled THEN
            COMMIT;
        END IF;
        FOR old IN SELECT conname FROM pg_constraint WHERE conrelid = parent::regclass AND contype = 'c' AND NOT convalidated LOOP
            EXECUTE format('ALTER TABLE %I VALIDATE CONSTRAINT %I', parent, old);
        END LOOP;
        IF filled THEN
            COMMIT; -- and with it the lock on the table, which the next turn takes anew
        END IF;
    END LOOP;
    EXECUTE format('ALTER TABLE %I RENAME TO %I', parent, before);
    FOR old IN SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = before::regclass LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', old, before || substr(old, length(parent) + 1));
    END LOOP;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE) PARTITION BY RANGE (id)', parent, before);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I, ADD PRIMARY KEY (id)', parent, parent || '_before');
    FOREACH command IN ARRAY indexes LOOP
        EXECUTE command;
    END LOOP;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', parent, before, bound);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', before, parent || '_before');
    -- A broker whose partitions were not made ahead goes on, into this one.
    EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', parent || '_default', parent);
    PERFORM set_up_partition(parent, parent || '_default');
    PERFORM set_up_partition(parent, before);
    FOR week IN 0..4 LOOP
        PERFORM add_partition(parent, prefix, now() + week * interval '7 days');
    END LOOP;
    COMMIT;
END $$;
-- +goose StatementEnd

CALL partition_by_week('leases', 'lse_', ARRAY[
    'CREATE INDEX leases_due ON leases (issuer, due_at) WHERE due_at IS NOT NULL',
    'CREATE INDEX leases_session ON leases (session_id)',
    'CREATE INDEX leases_live ON leases (tenant, policy, grant_name, id) WHERE state IN (''issuing'', ''active'')',
    'CREATE INDEX leases_signed ON leases (signing_key, expires_at) WHERE signing_key IS NOT NULL',
    'CREATE INDEX leases_revoked_early ON leases (signing_key, expires_at) WHERE signing_key IS NOT NULL AND revocation = ''expiry'' AND ended_at < expires_at'
]);
-- No UNIQUE (subject, count): it would need the id. That each event of a subject is
-- written once is the work of the events column of the subject's row, which every
-- change names as it expects to find it.
CALL partition_by_week('audit_events', 'evt_', ARRAY[]::text[]);

DROP PROCEDURE partition_by_week(text, text, text[]);

-- What is old is found by its time, in tables that only grow at their end: an
-- index of a few pages, that an insert has nothing to do for.
DROP INDEX CONCURRENTLY IF EXISTS session_tokens_made;
CREATE INDEX CONCURRENTLY session_tokens_made ON session_tokens USING brin (created_at);
DROP INDEX CONCURRENTLY IF EXISTS fingerprints_made;
CREATE INDEX CONCURRENTLY fingerprints_made ON fingerprints USING brin (created_at);
