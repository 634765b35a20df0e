-- Daypass: roles of the server. Run once, as a superuser{{if .CreateRole}} or an account with CREATEROLE{{end}}; run again whenever the configuration's roles change.
--
{{- if .CreateRole}}
-- Owner of the functions: a role with CREATEROLE and ADMIN on the listed groups: the lesser privilege. On PostgreSQL 16 and
-- later each user made adds a membership to its maker, and creating slows down with the users alive at the same time:
-- 0.5 ms at first, some 13 ms at 2,000, 18 ms at 3,000 (18.4), 40 ms at 5,000. PostgreSQL 15 shows none of it.
-- An owner that is a superuser keeps it flat (0.14 to 0.8 ms).
-- What such an owner may not do blocks a revocation, which says what it was: roles that inherit need CREATE on the databases
-- and schemas in which jobs make things, and a right that an admin gave to a user by name has to be taken back by an admin.
{{- else}}
-- Owner of the functions: a superuser that can't log in. Creating a user stays flat (0.14 to 0.8 ms), however many are alive,
-- and the functions must be airtight: read them. The other choice is an owner with CREATEROLE: the lesser privilege, which
-- on PostgreSQL 16 and later slows down with the users alive (18 ms at 3,000 on 18.4).
{{- end}}
BEGIN;

DO $daypass$
DECLARE
    r record;
BEGIN
    IF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION 'PostgreSQL 15 or later is needed';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {{lit .OwnerRole}}) THEN
        BEGIN
            CREATE ROLE {{ident .OwnerRole}} NOLOGIN {{if .CreateRole}}CREATEROLE{{else}}SUPERUSER{{end}};
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of the server is being set up at this moment
        END;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {{lit .BrokerUser}}) THEN
        -- No password: set one with \password, which sends nothing but a verifier.
        BEGIN
            CREATE ROLE {{ident .BrokerUser}} LOGIN NOINHERIT;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    SELECT * INTO r FROM pg_catalog.pg_roles WHERE rolname = {{lit .OwnerRole}};
    IF r.rolcanlogin OR r.rolsuper <> {{not .CreateRole}} OR (NOT r.rolsuper AND NOT r.rolcreaterole) THEN
        RAISE EXCEPTION 'role % exists and is not {{if .CreateRole}}NOLOGIN NOSUPERUSER CREATEROLE{{else}}NOLOGIN SUPERUSER{{end}}', {{lit .OwnerRole}}
            USING HINT = 'Alter it so, or name another role to own the functions.';
    END IF;
    SELECT * INTO r FROM pg_catalog.pg_roles WHERE rolname = {{lit .BrokerUser}};
    IF r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
        OR EXISTS (SELECT FROM pg_catalog.pg_auth_members WHERE member = r.oid) THEN
        RAISE EXCEPTION 'the broker''s account % must have no privilege and be in no group: it calls functions, and nothing else', {{lit .BrokerUser}};
    END IF;
END
$daypass$;
{{if .CreateRole}}
-- ADMIN on the groups lets the owner put users into them; membership of the heirs lets it hand over to them.
DO $daypass$
DECLARE
    r name;
    recent boolean := current_setting('server_version_num')::int >= 160000;
BEGIN
    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT %I TO CURRENT_USER', {{lit .OwnerRole}});
    END IF;
    FOREACH r IN ARRAY {{names .Groups}} LOOP
        EXECUTE format('GRANT %I TO %I WITH %s', r, {{lit .OwnerRole}},
            CASE WHEN recent THEN 'ADMIN TRUE, INHERIT FALSE, SET FALSE' ELSE 'ADMIN OPTION' END);
    END LOOP;
    FOREACH r IN ARRAY {{names .Owners}} LOOP
        EXECUTE format('GRANT %I TO %I%s', r, {{lit .OwnerRole}}, CASE WHEN recent THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END);
    END LOOP;
END
$daypass$;
{{end}}
-- Jobs reach the listed databases alone: the functions that take a user's things away live in one database each.
{{- range $db := .Databases}}
GRANT CONNECT ON DATABASE {{ident $db}} TO {{ident $.BrokerUser}}{{range $.Groups}}, {{ident .}}{{end}};
{{- end}}
{{- if .KeepConnect}}
-- Left out as asked: REVOKE CONNECT FROM PUBLIC on all other databases. What a job makes there blocks its revocation.
{{- else}}
DO $daypass$
DECLARE
    d name;
BEGIN
    FOR d IN SELECT datname FROM pg_catalog.pg_database
             WHERE datallowconn AND NOT datname = ANY ({{names .Databases}}) AND has_database_privilege('public', oid, 'CONNECT') LOOP
        RAISE NOTICE 'database %: CONNECT is taken from PUBLIC; grant it to the roles that need it', d;
        BEGIN
            EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', d);
        EXCEPTION WHEN invalid_catalog_name OR internal_error THEN -- "tuple concurrently deleted", or updated
            -- Dropped at this moment, or done by another setup. Otherwise it has to be known.
            IF EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = d AND has_database_privilege('public', oid, 'CONNECT')) THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
$daypass$;
{{- end}}
COMMIT;
