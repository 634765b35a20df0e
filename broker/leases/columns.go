package leases

import (
	"fmt"
	"strings"
)

// columns are the rows of a batch as arrays, one parameter each: a statement
// reads them as a table, however many rows there are.
type columns struct {
	names  []string
	params []string
	args   []any
}

// arg adds a parameter that is no column, and returns its place.
func (c *columns) arg(value any) string {
	c.args = append(c.args, value)
	return fmt.Sprintf("$%d", len(c.args))
}

func (c *columns) add(name, kind string, values any) {
	c.names = append(c.names, name)
	c.params = append(c.params, c.arg(values)+"::"+kind+"[]")
}

// table is the rows as an item of FROM.
func (c *columns) table(alias string) string {
	return "unnest(" + strings.Join(c.params, ", ") + ") AS " + alias + "(" + strings.Join(c.names, ", ") + ")"
}

func column[R, V any](rows []R, value func(R) V) []V {
	values := make([]V, len(rows))
	for i, r := range rows {
		values[i] = value(r)
	}
	return values
}

// span is the least and the greatest of some ids: a bound by which Postgres finds
// the partitions that they are in before it begins, which it can't by the ids.
func span(ids []string) (low, high string) {
	for i, id := range ids {
		if i == 0 || id < low {
			low = id
		}
		if id > high {
			high = id
		}
	}
	return low, high
}
