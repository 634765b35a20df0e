package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

// Values are the fields of a version.
type Values map[string]sealed.Value

// check says what is wrong with values, and nothing of what they are.
func (v Values) check() error {
	if len(v) == 0 || len(v) > sealed.MaxFields {
		return invalid("a version has between 1 and %d fields, not %d", sealed.MaxFields, len(v))
	}
	size := 0
	for _, field := range v.fields() {
		if err := sealed.CheckField(field); err != nil {
			return invalid("%v", err)
		}
		text := v[field].Secret.Reveal()
		switch {
		case text == "":
			return invalid("field %s is empty", field)
		case strings.ContainsRune(text, 0) || !utf8.ValidString(text):
			return invalid("field %s is no text: encode it, with base64 for example", field)
		case v[field].RandomBits < 0 || v[field].RandomBits > 8*len(text):
			return invalid("field %s can't have %d random bits: it has %d bytes", field, v[field].RandomBits, len(text))
		}
		size += len(text)
	}
	if size > MaxValue {
		return invalid("the fields have %d bytes together, more than %d", size, MaxValue)
	}
	return nil
}

func (v Values) fields() []string { return slices.Sorted(maps.Keys(v)) }

// plain is a value as it is sealed.
type plain struct {
	Value      string `json:"value"`
	RandomBits int    `json:"random_bits,omitempty"`
}

func (s *Store) place(secretID string, version int) keys.RowID {
	return keys.RowID{
		Installation: s.config.Installation, Tenant: s.config.Tenant, Table: "secret_versions", Column: "value",
		Row: secretID + "/" + strconv.Itoa(version), Version: "1", Purpose: "static secret",
	}
}

func (s *Store) seal(ctx context.Context, secretID string, version int, values Values) ([]byte, error) {
	fields := make(map[string]plain, len(values))
	for name, value := range values {
		fields[name] = plain{Value: value.Secret.Reveal(), RandomBits: value.RandomBits}
	}
	encoded, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encoding version %d of %s", version, secretID) // json's error may quote
	}
	defer clear(encoded)
	out, err := s.config.Sealer.Seal(ctx, s.place(secretID, version), encoded)
	if err != nil {
		// The HSM, or the database that data keys are kept in, is away.
		return nil, fmt.Errorf("sealing version %d of %s: %w: %w", version, secretID, leases.ErrUnavailable, err)
	}
	return out, nil
}

func (s *Store) open(ctx context.Context, secretID string, version int, value []byte) (Values, error) {
	encoded, err := s.config.Sealer.Open(ctx, s.place(secretID, version), value)
	if err != nil {
		return nil, fmt.Errorf("opening version %d of %s: %w", version, secretID, err)
	}
	defer clear(encoded)
	var fields map[string]plain
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, fmt.Errorf("opening version %d of %s: %w: it is not what is sealed here", version, secretID, keys.ErrOpen)
	}
	values := make(Values, len(fields))
	for name, p := range fields {
		values[name] = sealed.Value{Secret: issuers.NewSecret(p.Value), RandomBits: p.RandomBits}
	}
	return values, nil
}
