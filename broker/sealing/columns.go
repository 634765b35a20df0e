package sealing

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/keys"
)

// Column is a column of sealed values: where what a data key sealed may stand. A
// purpose that stands in no Column keeps its data keys for ever.
//
// Tenant, Row and Version are SQL expressions over the table, named t, that give
// the fields of the value's keys.RowID.
type Column struct {
	Table, Column, Purpose string
	Tenant, Row, Version   string
	Live                   string // SQL: which rows still need their value
	Tell                   string // SQL: what a person knows the row by
}

// Columns lists them all. One whose table isn't there yet is left aside.
func Columns() []Column {
	return []Column{
		{
			Table: "leases", Column: "handle", Purpose: "revocation handle",
			Tenant: "t.tenant", Row: "t.id", Version: "'1'",
			Live: "t.due_at IS NOT NULL AND t.handle IS NOT NULL", // what has ended needs none; leases_due finds these
			Tell: "'issuer ' || t.issuer || ', target ' || t.target",
		},
		{
			Table: "secret_versions", Column: "value", Purpose: "static secret",
			Tenant: "(SELECT s.tenant FROM secrets s WHERE s.id = t.secret_id)", Row: "(t.secret_id || '/' || t.version)", Version: "'1'",
			Live: "t.value IS NOT NULL", // until it is destroyed
			Tell: "'static secret ' || (SELECT s.name FROM secrets s WHERE s.id = t.secret_id) || ', version ' || t.version",
		},
	}
}

// existing are those of Columns whose table there is.
func existing(ctx context.Context, pool *pgxpool.Pool) ([]Column, error) {
	var found []Column
	for _, c := range Columns() {
		var there bool
		if err := pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, c.Table).Scan(&there); err != nil {
			return nil, fmt.Errorf("looking for table %s: %w", c.Table, err)
		}
		if there {
			found = append(found, c)
		}
	}
	return found, nil
}

// placed is a sealed value as it stands in its table.
type placed struct {
	Value

	tell string
}

// pageSize is how many values are read at once.
const pageSize = 500

// page reads values behind a row and version, ordered by them.
func (c *Column) page(ctx context.Context, pool *pgxpool.Pool, installation string, after [2]string) ([]placed, error) {
	sql := fmt.Sprintf(`
SELECT %[1]s, %[2]s, (%[3]s)::text, %[4]s, t.%[5]s FROM %[6]s t
WHERE %[7]s AND ((%[2]s) COLLATE "C", ((%[3]s)::text) COLLATE "C") > ($1, $2) ORDER BY (%[2]s) COLLATE "C", ((%[3]s)::text) COLLATE "C" LIMIT %[8]d`,
		c.Tenant, c.Row, c.Version, c.Tell, c.Column, c.Table, c.Live, pageSize)
	rows, err := pool.Query(ctx, sql, after[0], after[1])
	if err != nil {
		return nil, fmt.Errorf("reading %s.%s: %w", c.Table, c.Column, err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (placed, error) {
		v := placed{Value: Value{Row: keys.RowID{Installation: installation, Table: c.Table, Column: c.Column, Purpose: c.Purpose}}}
		err := row.Scan(&v.Row.Tenant, &v.Row.Row, &v.Row.Version, &v.tell, &v.Sealed)
		return v, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s.%s: %w", c.Table, c.Column, err)
	}
	return found, nil
}

// each calls f for every value that is still needed, a page at a time.
func (c *Column) each(ctx context.Context, pool *pgxpool.Pool, installation string, f func([]placed) error) error {
	var after [2]string
	for {
		found, err := c.page(ctx, pool, installation, after)
		if err != nil || len(found) == 0 {
			return err
		}
		if err := f(found); err != nil {
			return err
		}
		last := found[len(found)-1].Row
		after = [2]string{last.Row, last.Version}
	}
}

// execer is a pool or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// store puts a value in the place of another, if that one still stands there.
func (c *Column) store(ctx context.Context, conn execer, was Value, sealed []byte) (bool, error) {
	sql := fmt.Sprintf(`UPDATE %s t SET %s = $1 WHERE %s = $2 AND (%s)::text = $3 AND %s = $4 AND t.%s = $5`, c.Table, c.Column, c.Row, c.Version, c.Tenant, c.Column)
	tag, err := conn.Exec(ctx, sql, sealed, was.Row.Row, was.Row.Version, was.Row.Tenant, was.Sealed)
	if err != nil {
		return false, fmt.Errorf("storing %s.%s of %s: %w", c.Table, c.Column, was.Row.Row, err)
	}
	return tag.RowsAffected() == 1, nil
}

// destroy destroys data keys that were retired before some time ago, and that
// nothing refers to any more. A value that is needed names its data key, so what
// isn't named can't be needed.
func destroy(ctx context.Context, pool *pgxpool.Pool, retiredFor time.Duration) (int, error) {
	columns, err := existing(ctx, pool)
	if err != nil {
		return 0, err
	}
	destroyed := 0
	for _, c := range columns {
		sql := fmt.Sprintf(`
WITH needed AS (
    SELECT DISTINCT encode(substring(t.%[1]s FROM 2 FOR 8), 'hex') AS id FROM %[2]s t
    WHERE %[3]s AND substring(t.%[1]s FROM 1 FOR 1) = '\x03'
)
UPDATE data_keys SET wrapped = NULL, destroyed_at = now()
WHERE purpose = $1 AND destroyed_at IS NULL AND lost_at IS NULL AND retired_at <= now() - $2::interval AND id NOT IN (SELECT id FROM needed)`, c.Column, c.Table, c.Live)
		tag, err := pool.Exec(ctx, sql, c.Purpose, retiredFor)
		if err != nil {
			return destroyed, fmt.Errorf("destroying data keys that nothing refers to: %w", err)
		}
		destroyed += int(tag.RowsAffected())
	}
	return destroyed, nil
}
