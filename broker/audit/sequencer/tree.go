package sequencer

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	auditlog "github.com/daypass/daypass/broker/audit/log"
)

// nodeLevel is the lowest level whose nodes are kept; those below are made from leaves.
const nodeLevel = 8

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ErrBroken says that the log in the database lacks what it must have: rows of it
// were taken away.
var ErrBroken = errors.New("the audit log in the database is broken")

// currentTree is the tree of what the log holds, to be grown: the one of the last
// run, where nobody else was at it since.
func (s *Sequencer) currentTree(ctx context.Context, tx pgx.Tx) (*auditlog.Tree, error) {
	const size = `SELECT coalesce(max(seq) + 1, 0) FROM audit_log`
	var n int64
	if err := tx.QueryRow(ctx, size).Scan(&n); err != nil {
		return nil, err
	}
	if s.tree != nil && s.tree.Size() == n {
		return s.tree.Clone(), nil
	}
	return treeOf(ctx, tx, n)
}

// treeOf is the tree of the first n events.
func treeOf(ctx context.Context, q querier, n int64) (*auditlog.Tree, error) {
	hashes, err := nodesOf(ctx, q, auditlog.Subtrees(n))
	if err != nil {
		return nil, err
	}
	return auditlog.NewTree(n, hashes)
}

// reader reads nodes of the tree.
func reader(ctx context.Context, q querier) auditlog.NodeReader {
	return func(nodes []auditlog.Node) ([]auditlog.Hash, error) { return nodesOf(ctx, q, nodes) }
}

// nodesOf reads the hashes of complete subtrees. Those below nodeLevel are made from
// at most 128 leaves each; a proof asks for few of them.
func nodesOf(ctx context.Context, q querier, nodes []auditlog.Node) ([]auditlog.Hash, error) {
	const kept = `
SELECT w.place, n.hash FROM unnest($1::int[], $2::bigint[]) WITH ORDINALITY AS w(level, number, place)
JOIN audit_nodes n ON n.level = w.level AND n.number = w.number`
	hashes := make([]auditlog.Hash, len(nodes))
	var levels []int32
	var numbers []int64
	var places []int
	for i, n := range nodes {
		if n.Level >= nodeLevel {
			levels, numbers, places = append(levels, int32(n.Level)), append(numbers, n.Number), append(places, i) //nolint:gosec // 48 at the most
			continue
		}
		hash, err := smallSubtree(ctx, q, n)
		if err != nil {
			return nil, err
		}
		hashes[i] = hash
	}
	if len(places) == 0 {
		return hashes, nil
	}
	rows, err := q.Query(ctx, kept, levels, numbers)
	if err != nil {
		return nil, err
	}
	found := 0
	var place int
	var hash []byte
	if _, err := pgx.ForEachRow(rows, []any{&place, &hash}, func() error {
		found++
		hashes[places[place-1]] = auditlog.Hash(hash)
		return nil
	}); err != nil {
		return nil, err
	}
	if found != len(places) {
		return nil, fmt.Errorf("%w: nodes of the tree are missing", ErrBroken)
	}
	return hashes, nil
}

func smallSubtree(ctx context.Context, q querier, n auditlog.Node) (auditlog.Hash, error) {
	const leaves = `SELECT leaf FROM audit_log WHERE seq >= $1 AND seq < $2 ORDER BY seq`
	begin := n.Number << n.Level
	rows, err := q.Query(ctx, leaves, begin, begin+1<<n.Level)
	if err != nil {
		return auditlog.Hash{}, err
	}
	var tree auditlog.Tree
	var leaf []byte
	if _, err := pgx.ForEachRow(rows, []any{&leaf}, func() error {
		tree.Append(auditlog.Hash(leaf), nil)
		return nil
	}); err != nil {
		return auditlog.Hash{}, err
	}
	if tree.Size() != 1<<n.Level {
		return auditlog.Hash{}, fmt.Errorf("%w: of the numbers from %d up to %d some are missing", ErrBroken, begin, begin+1<<n.Level-1)
	}
	return tree.Root(), nil
}
