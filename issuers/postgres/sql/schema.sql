-- Daypass: schema of database {{.Database}}.
-- Worth doing in a database that was made before PostgreSQL 15: REVOKE CREATE ON SCHEMA public FROM PUBLIC;
BEGIN;

CREATE SCHEMA IF NOT EXISTS {{.S}} AUTHORIZATION {{ident .OwnerRole}};
DO $daypass$
BEGIN
    IF (SELECT nspowner::regrole::text FROM pg_catalog.pg_namespace WHERE nspname = {{lit .Schema}}) <> quote_ident({{lit .OwnerRole}}) THEN
        RAISE EXCEPTION 'schema {{.Schema}} exists and belongs to somebody else';
    END IF;
END
$daypass$;

SET LOCAL ROLE {{ident .OwnerRole}};
SET LOCAL search_path = pg_catalog, pg_temp;
REVOKE ALL ON SCHEMA {{.S}} FROM PUBLIC;
GRANT USAGE ON SCHEMA {{.S}} TO {{ident .BrokerUser}};

-- Which account of this server belongs to which installation.
CREATE TABLE IF NOT EXISTS {{.S}}.brokers (
    account      name NOT NULL,
    installation text NOT NULL CHECK (installation ~ '^[0-9a-z]{12}$'),
    PRIMARY KEY (account, installation)
);

-- What users of a role are. The broker can't write it. A role that is no longer configured stays, not in use: its users have to
-- be taken away all the same.
CREATE TABLE IF NOT EXISTS {{.S}}.roles (
    account          name NOT NULL,
    role             text NOT NULL CHECK (role ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,62}$'),
    in_use           boolean NOT NULL,
    member_of        name[] NOT NULL CHECK (cardinality(member_of) > 0 AND strpos(array_to_string(member_of, ''), '"') = 0),
    owner            name,
    allow            text[] NOT NULL,
    connection_limit integer NOT NULL CHECK (connection_limit > 0),
    PRIMARY KEY (account, role)
);
REVOKE ALL ON {{.S}}.brokers, {{.S}}.roles FROM PUBLIC;

-- check_broker raises unless the session's account may act for the installation.
CREATE OR REPLACE FUNCTION {{.S}}.check_broker(p_installation text) RETURNS void
LANGUAGE plpgsql STABLE AS $daypass$
BEGIN
    IF NOT EXISTS (SELECT FROM {{.S}}.brokers WHERE account = session_user AND installation = p_installation) THEN
        RAISE EXCEPTION 'account % was not set up for installation %', session_user, p_installation
            USING ERRCODE = 'DP004', HINT = 'Run what "daypassd target setup postgres" prints once more.';
    END IF;
END
$daypass$;

-- group_problem says why users may not be put into groups, and NULL when they may: what the groups are, and what they are
-- members of, directly or not.
CREATE OR REPLACE FUNCTION {{.S}}.group_problem(p_groups name[]) RETURNS text
LANGUAGE plpgsql STABLE AS $daypass$
DECLARE
    v_all oid[] := '{}';
    v_up  oid[];
    v_oid oid;
    v_bad text;
    g     name;
    i     int := 0;
BEGIN
    FOREACH g IN ARRAY p_groups LOOP
        v_oid := to_regrole(quote_ident(g));
        IF v_oid IS NULL THEN
            RETURN format('group %s does not exist', quote_ident(g));
        END IF;
        v_all := v_all || v_oid;
    END LOOP;
    WHILE i < cardinality(v_all) LOOP
        i := i + 1;
        -- A range with an order, not "=": the one index that fits is then taken, however small the catalog was when the plan
        -- was made. The other one is as cheap while few users are alive, and read whole when there are thousands.
        SELECT CASE WHEN rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls OR rolname = session_user OR rolname = {{lit .OwnerRole}}
                      OR rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files') THEN rolname END,
               ARRAY(SELECT m.roleid FROM pg_auth_members m WHERE m.member >= v_all[i] AND m.member <= v_all[i] ORDER BY m.member, m.roleid)
        INTO v_bad, v_up FROM pg_roles WHERE oid = v_all[i];
        IF v_bad IS NOT NULL THEN
            RETURN format('the groups %s lead to role %s, which is more than a job may be', array_to_string(p_groups, ', '), quote_ident(v_bad));
        END IF;
        FOREACH v_oid IN ARRAY v_up LOOP
            IF v_oid <> ALL (v_all) THEN
                v_all := v_all || v_oid;
            END IF;
        END LOOP;
    END LOOP;
    RETURN NULL;
END
$daypass$;

-- owner_problem says why a role may not inherit what users of these groups leave behind, and NULL when it may. Index
-- expressions, views and the like run with their owner's rights, so an heir must have no right that the users lacked.
CREATE OR REPLACE FUNCTION {{.S}}.owner_problem(p_owner name, p_groups name[]) RETURNS text
LANGUAGE plpgsql STABLE AS $daypass$
DECLARE
    v record;
BEGIN
    SELECT oid, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls INTO v FROM pg_roles WHERE rolname = p_owner;
    IF NOT FOUND THEN
        RETURN format('owner %s does not exist', quote_ident(p_owner));
    END IF;
    IF v.rolcanlogin OR v.rolsuper OR v.rolcreaterole OR v.rolcreatedb OR v.rolreplication OR v.rolbypassrls THEN
        RETURN format('owner %s must be NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS', quote_ident(p_owner));
    END IF;
    IF NOT EXISTS (
        SELECT FROM unnest(p_groups) AS g (name)
        WHERE CASE WHEN pg_has_role(g.name, v.oid, 'USAGE') THEN true
                   WHEN current_setting('server_version_num')::int < 160000 THEN pg_has_role(g.name, v.oid, 'MEMBER')
                   ELSE pg_has_role(g.name, v.oid, 'SET') END
    ) THEN
        RETURN format('owner %1$s has rights that the users lack: GRANT %1$s TO one of %2$s', quote_ident(p_owner), array_to_string(p_groups, ', '));
    END IF;
    RETURN NULL;
END
$daypass$;

-- hand_over_user is the third step, in this database: what the user owns goes to the role's owner, then its privileges are
-- dropped. It refuses a user that can still log in or has a session, and stops (DP006) at what would run as its heir.
CREATE OR REPLACE FUNCTION {{.S}}.hand_over_user(p_lease text, p_installation text, p_user name) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $daypass$
DECLARE
    v_user  record;
    v_role  record;
    v_mark  text[];
    v_found text;
    v_here  oid := (SELECT oid FROM pg_database WHERE datname = current_database());
BEGIN
    PERFORM {{.S}}.check_broker(p_installation);
    SELECT oid, rolcanlogin, shobj_description(oid, 'pg_authid') AS mark INTO v_user FROM pg_roles WHERE rolname = p_user;
    -- Only a role that create_user made, and cut_user looked at, has both the name and the mark: nobody but a superuser or an owner of roles sets one.
    v_mark := string_to_array(v_user.mark, ' ');
    IF v_user.oid IS NULL OR v_mark[1:3] IS DISTINCT FROM ARRAY['daypass', p_installation, p_lease]
        OR NOT starts_with(p_user::text, 'dp_' || p_installation || '_' || lower(substr(p_lease, 5)) || '_') THEN
        RAISE EXCEPTION 'role % is no user of lease %', p_user, p_lease USING ERRCODE = 'DP004';
    END IF;
    {{- if .Home}}
    IF NOT EXISTS (SELECT FROM {{.S}}.users WHERE installation = p_installation AND lease_id = p_lease
                   AND role_oid = v_user.oid AND user_name = p_user AND ended_at IS NULL) THEN
        RAISE EXCEPTION 'role % is no user of lease %', p_user, p_lease USING ERRCODE = 'DP004';
    END IF;
    {{- end}}
    IF v_user.rolcanlogin OR EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE usesysid = v_user.oid) THEN
        RAISE EXCEPTION 'user % can still log in or has a session', p_user USING ERRCODE = 'DP008';
    END IF;
    SELECT member_of, owner, allow INTO v_role FROM {{.S}}.roles WHERE account = session_user AND role = v_mark[4];
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role % is not set up in database %', v_mark[4], current_database()
            USING ERRCODE = 'DP006', HINT = 'Run what "daypassd target setup postgres" prints once more.';
    END IF;

    SELECT string_agg(pg_describe_object(s.classid, s.objid, 0) || CASE WHEN p.prosecdef THEN ' (SECURITY DEFINER)' ELSE '' END, ', ')
    INTO v_found
    FROM (SELECT * FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = v_user.oid OFFSET 0) AS s
    LEFT JOIN pg_proc p ON s.classid = 'pg_proc'::regclass AND p.oid = s.objid
    WHERE s.dbid IN (0, v_here) AND s.deptype = 'o'
      AND CASE s.classid
          WHEN 'pg_proc'::regclass THEN p.prosecdef AND 'security_definer' <> ALL (v_role.allow)
          WHEN 'pg_foreign_server'::regclass THEN 'foreign_server' <> ALL (v_role.allow)
          WHEN 'pg_user_mapping'::regclass THEN 'user_mapping' <> ALL (v_role.allow)
          WHEN 'pg_publication'::regclass THEN 'publication' <> ALL (v_role.allow)
          ELSE s.classid IN ('pg_event_trigger'::regclass, 'pg_subscription'::regclass, 'pg_foreign_data_wrapper'::regclass)
               OR v_role.owner IS NULL
          END;
    IF v_found IS NOT NULL THEN
        RAISE EXCEPTION 'user % owns in database %: %', p_user, current_database(), left(v_found, 400)
            USING ERRCODE = 'DP006', HINT = CASE WHEN v_role.owner IS NULL
                THEN 'Drop it or give it to somebody, or declare an owner for role ' || v_mark[4] || '.'
                ELSE 'Look at it, then drop it or give it to somebody: it acts with its owner''s rights.' END;
    END IF;
    IF v_role.owner IS NOT NULL THEN
        v_found := {{.S}}.owner_problem(v_role.owner, v_role.member_of);
        IF v_found IS NOT NULL THEN
            RAISE EXCEPTION '%', v_found USING ERRCODE = 'DP006';
        END IF;
    END IF;

    BEGIN
        IF v_role.owner IS NOT NULL THEN
            EXECUTE format('REASSIGN OWNED BY %I TO %I', p_user, v_role.owner);
        END IF;
        EXECUTE format('DROP OWNED BY %I', p_user);
    EXCEPTION WHEN lock_not_available THEN
        SELECT string_agg(DISTINCT format('%s, locked by %s', pg_describe_object(s.classid, s.objid, 0),
                   coalesce('process ' || l.pid, 'prepared transaction ' || quote_literal(x.gid), 'a prepared transaction')), '; ')
        INTO v_found
        FROM pg_shdepend s
        JOIN pg_locks l ON l.locktype = 'relation' AND l.database = v_here AND l.relation = s.objid AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
        LEFT JOIN pg_locks lx ON l.pid IS NULL AND lx.pid IS NULL AND lx.locktype = 'transactionid' AND lx.granted
            AND lx.virtualtransaction = l.virtualtransaction
        LEFT JOIN pg_prepared_xacts x ON x.transaction = lx.transactionid
        WHERE s.dbid = v_here AND s.classid = 'pg_class'::regclass AND s.refclassid = 'pg_authid'::regclass AND s.refobjid = v_user.oid;
        RAISE EXCEPTION 'waiting in database % for %', current_database(), coalesce(left(v_found, 400), 'a lock that has gone since')
            USING ERRCODE = 'DP007', HINT = 'End what holds the lock.';
    END;
END
$daypass$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {{.S}} FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {{.S}}.hand_over_user(text, text, name) TO {{ident .BrokerUser}};

INSERT INTO {{.S}}.brokers (account, installation) VALUES ({{lit .BrokerUser}}, {{lit .Installation}}) ON CONFLICT DO NOTHING;
UPDATE {{.S}}.roles SET in_use = false WHERE account = {{lit .BrokerUser}} AND role <> ALL ({{texts .RoleNames}});
{{- range .Rows}}
INSERT INTO {{$.S}}.roles (account, role, in_use, member_of, owner, allow, connection_limit)
VALUES ({{lit $.BrokerUser}}, {{lit .Name}}, true, {{names .MemberOf}}, {{if .Owner}}{{lit .Owner}}{{else}}NULL{{end}}, {{texts .Allow}}, {{.ConnectionLimit}})
ON CONFLICT (account, role) DO UPDATE SET in_use = true, member_of = EXCLUDED.member_of, owner = EXCLUDED.owner, allow = EXCLUDED.allow, connection_limit = EXCLUDED.connection_limit;
{{- end}}
DO $daypass$
DECLARE
    r record;
    v_problem text;
BEGIN
    FOR r IN SELECT role, member_of, owner FROM {{.S}}.roles WHERE account = {{lit .BrokerUser}} AND in_use LOOP
        IF {{lit .BrokerUser}} = ANY (r.member_of) THEN
            RAISE EXCEPTION 'role %: the broker''s own account is no group', r.role;
        END IF;
        v_problem := coalesce({{.S}}.group_problem(r.member_of), CASE WHEN r.owner IS NOT NULL THEN {{.S}}.owner_problem(r.owner, r.member_of) END);
        IF v_problem IS NOT NULL THEN
            RAISE EXCEPTION 'role %: %', r.role, v_problem;
        END IF;
    END LOOP;
END
$daypass$;
COMMIT;
