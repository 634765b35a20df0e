-- +goose NO TRANSACTION
-- Each statement may be run again.

-- +goose Up

-- Where a token of the Vault façade logged in: a mount, and a role there. NULL in
-- what an exchange gave out.
ALTER TABLE session_tokens ADD COLUMN IF NOT EXISTS mount text;
ALTER TABLE session_tokens ADD COLUMN IF NOT EXISTS role text;
