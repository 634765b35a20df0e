-- Daypass: the record of users, and the functions that make and end them. They live in database {{.Database}} alone, the first listed:
-- it must stay the first, and the same for all installations on this server.
BEGIN;
SET LOCAL ROLE {{ident .OwnerRole}};
SET LOCAL search_path = pg_catalog, pg_temp;

-- One row for each lease that was ever made or revoked here. A row with ended_at is a tombstone: nothing is made under it
-- any more. Without a role_oid nothing ever was: the revocation came first.
CREATE TABLE IF NOT EXISTS {{.S}}.users (
    installation text NOT NULL,
    lease_id     text NOT NULL,
    role_oid     oid,
    user_name    name,
    role         text,
    created_at   timestamptz,
    ended_at     timestamptz,
    PRIMARY KEY (installation, lease_id),
    CHECK ((role_oid IS NULL) = (user_name IS NULL) AND (role_oid IS NOT NULL OR ended_at IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS users_ended ON {{.S}}.users (ended_at) WHERE ended_at IS NOT NULL;
REVOKE ALL ON {{.S}}.users FROM PUBLIC;

-- The highest epoch that each installation came with: a broker on an older copy of its database has a lower one, and neither
-- makes nor ends a user here. No row: no epoch was ever raised.
CREATE TABLE IF NOT EXISTS {{.S}}.epochs (
    installation text PRIMARY KEY,
    epoch        bigint NOT NULL,
    raised_at    timestamptz NOT NULL
);
REVOKE ALL ON {{.S}}.epochs FROM PUBLIC;

-- keep_epoch remembers an epoch, if none that is higher is known, and returns the highest. A broker says at its connection
-- which one it has; one that says none has 0.
CREATE OR REPLACE FUNCTION {{.S}}.keep_epoch(p_installation text, p_epoch bigint) RETURNS bigint
LANGUAGE plpgsql AS $daypass$
DECLARE
    v_seen bigint := coalesce((SELECT epoch FROM {{.S}}.epochs WHERE installation = p_installation), 0);
BEGIN
    IF p_epoch > v_seen THEN
        INSERT INTO {{.S}}.epochs AS e (installation, epoch, raised_at) VALUES (p_installation, p_epoch, clock_timestamp())
        ON CONFLICT (installation) DO UPDATE SET epoch = EXCLUDED.epoch, raised_at = EXCLUDED.raised_at WHERE e.epoch < EXCLUDED.epoch;
        v_seen := (SELECT epoch FROM {{.S}}.epochs WHERE installation = p_installation);
    END IF;
    RETURN v_seen;
END
$daypass$;

-- check_epoch raises (DP009) where a later epoch was seen.
CREATE OR REPLACE FUNCTION {{.S}}.check_epoch(p_installation text) RETURNS void
LANGUAGE plpgsql AS $daypass$
DECLARE
    v_mine bigint := coalesce(nullif(current_setting('daypass.epoch', true), ''), '0')::bigint;
    v_seen bigint := {{.S}}.keep_epoch(p_installation, v_mine);
BEGIN
    IF v_mine < v_seen THEN
        RAISE EXCEPTION 'inert: the target has seen a later epoch of installation % (%, and this broker has %): its database is an older copy', p_installation, v_seen, v_mine
            USING ERRCODE = 'DP009', HINT = 'Point "database" at the one that was promoted last; if this one is to take over, run "daypassd restore --promote", or "--new-installation" if the other lives on.';
    END IF;
END
$daypass$;

-- raise_epoch is what a broker that takes over calls; it returns the highest that is known, and refuses nothing.
CREATE OR REPLACE FUNCTION {{.S}}.raise_epoch(p_installation text, p_epoch bigint) RETURNS bigint
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $daypass$
BEGIN
    PERFORM {{.S}}.check_broker(p_installation);
    RETURN {{.S}}.keep_epoch(p_installation, p_epoch);
END
$daypass$;

-- usable_role returns what users of a role are, once account, installation, role, groups and epoch allow that one is made.
CREATE OR REPLACE FUNCTION {{.S}}.usable_role(p_installation text, p_role text) RETURNS {{.S}}.roles
LANGUAGE plpgsql AS $daypass$
DECLARE
    r {{.S}}.roles;
    v_problem text;
BEGIN
    SELECT r1.* INTO r FROM {{.S}}.roles r1, {{.S}}.brokers b
    WHERE r1.account = session_user AND r1.role = p_role AND r1.in_use
      AND b.account = session_user AND b.installation = p_installation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role % is not set up for account % and installation %', p_role, session_user, p_installation
            USING ERRCODE = 'DP004', HINT = 'Run what "daypassd target setup postgres" prints once more.';
    END IF;
    v_problem := {{.S}}.group_problem(r.member_of);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION '%', v_problem USING ERRCODE = 'DP004';
    END IF;
    PERFORM {{.S}}.check_epoch(p_installation);
    RETURN r;
END
$daypass$;

-- check_user refuses what no user can be made of: late (DP001) by this server's clock, or malformed (DP005).
CREATE OR REPLACE FUNCTION {{.S}}.check_user(p_lease text, p_installation text, p_verifier text, p_valid_until timestamptz, p_deadline timestamptz) RETURNS void
LANGUAGE plpgsql AS $daypass$
BEGIN
    IF clock_timestamp() >= p_deadline THEN
        RAISE EXCEPTION 'the deadline of lease % has passed by this server''s clock', p_lease USING ERRCODE = 'DP001';
    END IF;
    IF p_lease !~ '^lse_[0-9A-HJKMNP-TV-Z]{26}$' OR p_installation !~ '^[0-9a-z]{12}$' THEN
        RAISE EXCEPTION 'malformed lease id or installation' USING ERRCODE = 'DP005';
    END IF;
    -- Lengths apart from the pattern: counted repeats cost more than all other checks together.
    IF p_verifier !~ '^SCRAM-SHA-256\$[1-9][0-9]*:[A-Za-z0-9+/]+==\$[A-Za-z0-9+/]+=:[A-Za-z0-9+/]+=$'
        OR length(split_part(p_verifier, '$', 2)) NOT BETWEEN 26 AND 31 OR length(split_part(p_verifier, '$', 3)) <> 89
        OR length(split_part(p_verifier, ':', 2)) <> 69 OR length(split_part(p_verifier, ':', 3)) <> 44 THEN
        RAISE EXCEPTION 'malformed SCRAM-SHA-256 verifier' USING ERRCODE = 'DP005';
    END IF;
    IF p_deadline > clock_timestamp() + interval '1 day' OR NOT isfinite(p_valid_until) OR p_valid_until > clock_timestamp() + interval '366 days' THEN
        RAISE EXCEPTION 'a deadline is at most a day away, and an end at most a year' USING ERRCODE = 'DP005';
    END IF;
END
$daypass$;

-- make_user makes a user that was checked, of a role that is usable, and returns its name.
CREATE OR REPLACE FUNCTION {{.S}}.make_user(p_lease text, p_installation text, p_role {{.S}}.roles, p_verifier text, p_valid_until timestamptz) RETURNS text
LANGUAGE plpgsql AS $daypass$
DECLARE
    c_letters CONSTANT text := '0123456789abcdefghijklmnopqrstuvwxyz';
    v_random  bytea := uuid_send(gen_random_uuid());
    v_name    text;
BEGIN
    -- The bytes of a random UUID but those that say which kind it is.
    v_name := 'dp_' || p_installation || '_' || lower(substr(p_lease, 5)) || '_'
        || substr(c_letters, get_byte(v_random, 0) % 36 + 1, 1) || substr(c_letters, get_byte(v_random, 1) % 36 + 1, 1)
        || substr(c_letters, get_byte(v_random, 2) % 36 + 1, 1) || substr(c_letters, get_byte(v_random, 3) % 36 + 1, 1)
        || substr(c_letters, get_byte(v_random, 4) % 36 + 1, 1) || substr(c_letters, get_byte(v_random, 5) % 36 + 1, 1)
        || substr(c_letters, get_byte(v_random, 10) % 36 + 1, 1) || substr(c_letters, get_byte(v_random, 11) % 36 + 1, 1);
    EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT CONNECTION LIMIT %s PASSWORD %L VALID UNTIL %L IN ROLE "%s"',
        v_name, p_role.connection_limit, p_verifier, to_char(p_valid_until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00',
        array_to_string(p_role.member_of, '", "')); -- a CHECK keeps quotes out of these names
    -- This key is where a create and a revocation meet: the second waits for the first, and sees it.
    INSERT INTO {{.S}}.users (installation, lease_id, role_oid, user_name, role, created_at)
    VALUES (p_installation, p_lease, to_regrole(v_name)::oid, v_name, p_role.role, clock_timestamp())
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM {{.S}}.users WHERE installation = p_installation AND lease_id = p_lease AND ended_at IS NOT NULL) THEN
            RAISE EXCEPTION 'lease % was revoked before', p_lease USING ERRCODE = 'DP002';
        END IF;
        RAISE EXCEPTION 'lease % has a user already', p_lease USING ERRCODE = 'DP003';
    END IF;
    RETURN v_name;
END
$daypass$;

-- create_user makes the user of a lease and returns its name. Late (DP001), revoked before (DP002), made before (DP003),
-- not set up (DP004), malformed (DP005) and from an older copy of the broker's database (DP009) are refused.
CREATE OR REPLACE FUNCTION {{.S}}.create_user(p_lease text, p_installation text, p_role text, p_verifier text,
    p_valid_until timestamptz, p_deadline timestamptz) RETURNS text
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $daypass$
BEGIN
    PERFORM {{.S}}.check_user(p_lease, p_installation, p_verifier, p_valid_until, p_deadline);
    RETURN {{.S}}.make_user(p_lease, p_installation, {{.S}}.usable_role(p_installation, p_role), p_verifier, p_valid_until);
END
$daypass$;

-- create_users is create_user for several leases: all or none, with one commit, and what a role may be is looked up once for
-- each that follows on another. Each deadline is checked right before its user is made.
CREATE OR REPLACE FUNCTION {{.S}}.create_users(p_leases text[], p_installation text, p_roles text[], p_verifiers text[],
    p_valid_until timestamptz[], p_deadlines timestamptz[]) RETURNS text[]
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $daypass$
DECLARE
    n       int := cardinality(p_leases);
    v_role  {{.S}}.roles;
    v_names text[] := '{}';
BEGIN
    IF n NOT BETWEEN 1 AND 64 OR cardinality(p_roles) <> n OR cardinality(p_verifiers) <> n OR cardinality(p_valid_until) <> n OR cardinality(p_deadlines) <> n THEN
        RAISE EXCEPTION 'one of each is needed for 1 to 64 leases' USING ERRCODE = 'DP005';
    END IF;
    FOR i IN 1..n LOOP
        -- Asked of each: arrays may have holes, other bounds, or two dimensions.
        IF num_nulls(p_leases[i], p_roles[i], p_verifiers[i], p_valid_until[i], p_deadlines[i]) > 0 THEN
            RAISE EXCEPTION 'one of each is needed for 1 to 64 leases' USING ERRCODE = 'DP005';
        END IF;
        PERFORM {{.S}}.check_user(p_leases[i], p_installation, p_verifiers[i], p_valid_until[i], p_deadlines[i]);
        IF v_role.role IS DISTINCT FROM p_roles[i] THEN
            v_role := {{.S}}.usable_role(p_installation, p_roles[i]);
        END IF;
        v_names := v_names || {{.S}}.make_user(p_leases[i], p_installation, v_role, p_verifiers[i], p_valid_until[i]);
    END LOOP;
    RETURN v_names;
END
$daypass$;

-- live_user returns the row of a lease, locked where asked; all NULL when nothing is left to take back.
CREATE OR REPLACE FUNCTION {{.S}}.live_user(p_lease text, p_installation text, p_lock boolean) RETURNS {{.S}}.users
LANGUAGE plpgsql AS $daypass$
DECLARE
    u {{.S}}.users;
    v_name name;
BEGIN
    PERFORM {{.S}}.check_broker(p_installation);
    PERFORM {{.S}}.check_epoch(p_installation);
    IF p_lock THEN
        SELECT * INTO u FROM {{.S}}.users WHERE installation = p_installation AND lease_id = p_lease AND ended_at IS NULL FOR UPDATE;
    ELSE
        SELECT * INTO u FROM {{.S}}.users WHERE installation = p_installation AND lease_id = p_lease AND ended_at IS NULL;
    END IF;
    IF FOUND THEN
        SELECT rolname INTO v_name FROM pg_roles WHERE oid = u.role_oid;
        IF v_name <> u.user_name THEN
            RAISE EXCEPTION 'the user of lease % is now called %', p_lease, quote_ident(v_name)
                USING ERRCODE = 'DP006', HINT = 'Rename it back to ' || u.user_name || '.';
        END IF;
    END IF;
    RETURN u;
END
$daypass$;

-- bar_user is the first step: no new login, and no create any more. user_name is NULL when nothing is left to take back;
-- existed says whether there ever was a user.
CREATE OR REPLACE FUNCTION {{.S}}.bar_user(p_lease text, p_installation text, OUT existed boolean, OUT user_name text)
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $daypass$
DECLARE
    u {{.S}}.users;
    v_login boolean;
BEGIN
    INSERT INTO {{.S}}.users (installation, lease_id, ended_at) VALUES (p_installation, p_lease, clock_timestamp()) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM {{.S}}.check_broker(p_installation);
        PERFORM {{.S}}.check_epoch(p_installation);
        existed := false;
        RETURN;
    END IF;
    u := {{.S}}.live_user(p_lease, p_installation, true);
    IF u.role_oid IS NULL THEN
        existed := (SELECT role_oid IS NOT NULL FROM {{.S}}.users WHERE installation = p_installation AND lease_id = p_lease);
        RETURN;
    END IF;
    existed := true;
    user_name := u.user_name;
    SELECT rolcanlogin INTO v_login FROM pg_roles WHERE oid = u.role_oid;
    IF v_login THEN
        EXECUTE format('ALTER ROLE %I NOLOGIN', u.user_name);
        {{- if .CreateRole}}
        -- Ending its sessions and handing over what it owns needs its rights.
        EXECUTE format('GRANT %I TO CURRENT_USER', u.user_name);
        {{- end}}
    END IF;
END
$daypass$;

-- cut_user is the second step: it ends the user's sessions, in every database, SET ROLE or not, and returns how many it saw;
-- called again until none is left. Then it says which prepared transactions the user left, and in which databases it owns
-- things or holds rights.
CREATE OR REPLACE FUNCTION {{.S}}.cut_user(p_lease text, p_installation text, OUT sessions integer,
    OUT prepared text[], OUT prepared_in text[], OUT present_in text[])
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $daypass$
DECLARE
    u {{.S}}.users;
BEGIN
    u := {{.S}}.live_user(p_lease, p_installation, false);
    SELECT count(pg_terminate_backend(pid)) INTO sessions FROM pg_stat_get_activity(NULL) WHERE usesysid = u.role_oid;
    IF sessions > 0 THEN
        RETURN;
    END IF;
    IF current_setting('max_prepared_transactions') <> '0' THEN
        SELECT array_agg(gid ORDER BY gid), array_agg(database::text ORDER BY gid) INTO prepared, prepared_in FROM pg_prepared_xacts WHERE owner = u.user_name;
    END IF;
    SELECT array_agg(DISTINCT coalesce(d.datname::text, current_database()::text)) INTO present_in
    FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = u.role_oid;
    -- The mark that hand_over_user looks for, in every database: comments on roles are the server's, not a database's. Most users
    -- have nothing to hand over, and need none.
    IF present_in IS NOT NULL AND shobj_description(u.role_oid, 'pg_authid') IS NULL THEN
        EXECUTE format('COMMENT ON ROLE %I IS %L', u.user_name, 'daypass ' || p_installation || ' ' || p_lease || ' ' || u.role);
    END IF;
END
$daypass$;

-- drop_user is the end of the third step. It refuses (DP008) a user that can log in or has a session; what the user still
-- owns anywhere makes DROP ROLE refuse.
CREATE OR REPLACE FUNCTION {{.S}}.drop_user(p_lease text, p_installation text) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $daypass$
DECLARE
    u {{.S}}.users;
    v_login boolean;
BEGIN
    u := {{.S}}.live_user(p_lease, p_installation, true);
    IF u.role_oid IS NULL THEN
        RETURN;
    END IF;
    SELECT rolcanlogin INTO v_login FROM pg_roles WHERE oid = u.role_oid;
    IF v_login OR EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE usesysid = u.role_oid) THEN
        RAISE EXCEPTION 'user % can still log in or has a session', u.user_name USING ERRCODE = 'DP008';
    END IF;
    IF v_login IS NOT NULL THEN -- NULL: somebody dropped it by hand
        EXECUTE format('DROP ROLE %I', u.user_name);
    END IF;
    UPDATE {{.S}}.users SET ended_at = clock_timestamp() WHERE installation = p_installation AND lease_id = p_lease;
    -- Tombstones are needed until no create can be on its way any more; now and then some old ones go.
    IF random() < 0.1 THEN
        DELETE FROM {{.S}}.users WHERE ctid IN (
            SELECT ctid FROM {{.S}}.users WHERE ended_at < now() - interval '7 days' LIMIT 40 FOR UPDATE SKIP LOCKED);
    END IF;
END
$daypass$;

-- renew_user moves the end of a user that can still log in.
CREATE OR REPLACE FUNCTION {{.S}}.renew_user(p_lease text, p_installation text, p_valid_until timestamptz) RETURNS boolean
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $daypass$
DECLARE
    u {{.S}}.users;
BEGIN
    IF NOT isfinite(p_valid_until) OR p_valid_until > clock_timestamp() + interval '366 days' THEN
        RAISE EXCEPTION 'an end is at most a year away' USING ERRCODE = 'DP005';
    END IF;
    u := {{.S}}.live_user(p_lease, p_installation, true);
    IF NOT EXISTS (SELECT FROM pg_roles WHERE oid = u.role_oid AND rolcanlogin) THEN
        RAISE EXCEPTION 'lease % was revoked before, or never made', p_lease USING ERRCODE = 'DP002';
    END IF;
    EXECUTE format('ALTER ROLE %I VALID UNTIL %L', u.user_name, to_char(p_valid_until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00');
    RETURN true;
END
$daypass$;

-- end_strays ends sessions that slipped through: a login that was checked before the bar and showed itself only after the drop.
CREATE OR REPLACE FUNCTION {{.S}}.end_strays(p_installation text) RETURNS void
LANGUAGE plpgsql AS $daypass$
BEGIN
    PERFORM pg_terminate_backend(a.pid) FROM pg_stat_get_activity(NULL) AS a
    WHERE a.usesysid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.usesysid)
      AND EXISTS (SELECT FROM {{.S}}.users u WHERE u.installation = p_installation AND u.role_oid = a.usesysid AND u.ended_at IS NOT NULL);
END
$daypass$;

-- list_users is what brokers of an earlier version call: the leases of an installation that are on record as not ended.
CREATE OR REPLACE FUNCTION {{.S}}.list_users(p_installation text) RETURNS SETOF text
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $daypass$
BEGIN
    PERFORM {{.S}}.check_broker(p_installation);
    PERFORM {{.S}}.end_strays(p_installation);
    PERFORM {{.S}}.check_epoch(p_installation);
    RETURN QUERY SELECT lease_id FROM {{.S}}.users WHERE installation = p_installation AND ended_at IS NULL ORDER BY lease_id;
END
$daypass$;

-- list_page returns the users of an installation whose lease ids come after p_after, in their order: those on record, and
-- whether they stand on the server, under whatever name; and those that carry the installation's name and are not on record.
-- The latter nobody here can end: an admin has to. more says that there are others behind. Ids are compared as bytes, like names.
CREATE OR REPLACE FUNCTION {{.S}}.list_page(p_installation text, p_after text, p_limit integer)
RETURNS TABLE (lease_id text, user_name text, created_at timestamptz, stands boolean, more boolean)
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $daypass$
DECLARE
    c_prefix CONSTANT text := 'dp_' || p_installation || '_';
BEGIN
    PERFORM {{.S}}.check_broker(p_installation);
    PERFORM {{.S}}.check_epoch(p_installation);
    IF p_after = '' THEN
        PERFORM {{.S}}.end_strays(p_installation);
    ELSIF p_after !~ '^lse_[0-9A-HJKMNP-TV-Z]{26}$' THEN
        RAISE EXCEPTION 'malformed lease id' USING ERRCODE = 'DP005';
    END IF;
    IF p_limit NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'a page has 1 to 10000 users' USING ERRCODE = 'DP005';
    END IF;
    RETURN QUERY
    WITH recorded AS (
        SELECT u.lease_id AS id, coalesce(r.rolname, u.user_name)::text AS name, u.created_at AS at, r.oid IS NOT NULL AS there
        FROM {{.S}}.users u LEFT JOIN pg_roles r ON r.oid = u.role_oid
        WHERE u.installation = p_installation AND u.lease_id > p_after AND u.ended_at IS NULL
        ORDER BY u.lease_id LIMIT p_limit + 1
    ), named AS (
        SELECT 'lse_' || upper(substr(r.rolname::text, length(c_prefix) + 1, 26)) AS id, r.rolname::text AS name, NULL::timestamptz AS at, true AS there
        FROM pg_roles r
        WHERE r.rolname >= (c_prefix || CASE WHEN p_after = '' THEN '' ELSE lower(substr(p_after, 5)) || '`' END)::name
          AND r.rolname < ('dp_' || p_installation || '`')::name -- the character behind "_"
          AND r.rolname::text ~ '^dp_[0-9a-z]{12}_[0-9a-hjkmnp-tv-z]{26}_[0-9a-z]{8}$'
          AND NOT EXISTS (
              SELECT FROM {{.S}}.users u WHERE u.installation = p_installation AND u.ended_at IS NULL AND u.role_oid = r.oid
                AND u.lease_id = 'lse_' || upper(substr(r.rolname::text, length(c_prefix) + 1, 26)))
        ORDER BY r.rolname LIMIT p_limit + 1
    ), page AS (
        SELECT * FROM (SELECT * FROM recorded UNION ALL SELECT * FROM named) AS b ORDER BY b.id COLLATE "C", b.name LIMIT p_limit + 1
    )
    SELECT p.id, p.name, p.at, p.there, (SELECT count(*) FROM page) > p_limit
    FROM page p ORDER BY p.id COLLATE "C", p.name LIMIT p_limit;
END
$daypass$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {{.S}} FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    {{.S}}.create_user(text, text, text, text, timestamptz, timestamptz), {{.S}}.renew_user(text, text, timestamptz),
    {{.S}}.create_users(text[], text, text[], text[], timestamptz[], timestamptz[]),
    {{.S}}.bar_user(text, text), {{.S}}.cut_user(text, text), {{.S}}.drop_user(text, text), {{.S}}.list_users(text),
    {{.S}}.list_page(text, text, integer),
    {{.S}}.raise_epoch(text, bigint)
TO {{ident .BrokerUser}};
COMMIT;
