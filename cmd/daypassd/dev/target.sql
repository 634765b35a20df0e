-- What somebody's payments service might have: an owner of its tables that
-- nobody logs in as, and a group that may deploy to it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payments_owner') THEN
        CREATE ROLE payments_owner NOLOGIN;
        CREATE ROLE payments_deploy NOLOGIN;
        GRANT payments_owner TO payments_deploy;
    END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS payments AUTHORIZATION payments_owner;
CREATE TABLE IF NOT EXISTS payments.ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, cents bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());
ALTER TABLE payments.ledger OWNER TO payments_owner;
GRANT USAGE, CREATE ON SCHEMA payments TO payments_deploy;
GRANT SELECT, INSERT ON payments.ledger TO payments_deploy;
