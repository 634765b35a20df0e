package keys

import (
	"context"
	"errors"
	"fmt"
)

// withFormer is a Sealer beside which there are others that still open.
type withFormer struct {
	Sealer
	others []Sealer
}

// AlsoOpen returns a sealer that seals by current alone, and with which
// [SealerOf] finds the others too: former keys, and the next one while a fleet
// changes over to it.
func AlsoOpen(current Sealer, others ...Sealer) Sealer {
	return &withFormer{Sealer: current, others: others}
}

// SealerOf finds the sealer of a key id: sealer itself, or one of those that
// [AlsoOpen] put beside it. ErrNoKey when there is none.
func SealerOf(sealer Sealer, id string) (Sealer, error) {
	if sealer.KeyID() == id {
		return sealer, nil
	}
	if ring, ok := sealer.(*withFormer); ok {
		for _, s := range ring.others {
			if s.KeyID() == id {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: it was wrapped by sealing key %s, the configured one is %s (hint: name the label of the former one under keys.opening; where it is lost for good: `daypassd keys replace`)",
		ErrNoKey, id, sealer.KeyID())
}

// OpenBy opens something by the sealer of a key id. When there is none, all are
// tried: a sealing key that was restored into another token may have another id
// there, and is the same key. ErrNoKey when none opens it.
func OpenBy(sealer Sealer, id string, open func(Sealer) error) error {
	known, missing := SealerOf(sealer, id)
	if missing == nil {
		return open(known)
	}
	for _, s := range AllSealers(sealer) {
		if err := open(s); !errors.Is(err, ErrOpen) {
			return err
		}
	}
	return missing
}

// Rewrap wraps a root by another sealer, and proves that it opens there, before
// anybody lets go of how it was wrapped before.
func (r *Root) Rewrap(ctx context.Context, to Sealer, installation string) ([]byte, error) {
	wrapped, err := wrapAndProve(ctx, to, r.key(), rootPlace(installation))
	if err != nil {
		return nil, fmt.Errorf("wrapping root anew: %w", err)
	}
	return wrapped, nil
}

// AllSealers lists a sealer and those that [AlsoOpen] put beside it.
func AllSealers(sealer Sealer) []Sealer {
	if ring, ok := sealer.(*withFormer); ok {
		return append([]Sealer{ring.Sealer}, ring.others...)
	}
	return []Sealer{sealer}
}
