package main

import (
	"crypto/rand"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
)

// sealing measures what it costs to seal and to open a value of a row under a data
// key that is in memory, beside the same inside the token.
func (b *bench) sealing(token *pkcs11.Token) error {
	inside, err := token.MakeSealer(b.ctx, "seal")
	if err != nil {
		return err
	}
	rows, _, err := keys.MakeDataKey(b.ctx, inside, keys.DataKeyPlace{Installation: "i", ID: keys.NewDataKeyID(), Tenant: "main", Purpose: "revoke"})
	if err != nil {
		return err
	}
	row := keys.RowID{Installation: "i", Tenant: "main", Table: "leases", Column: "handle", Row: rand.Text(), Version: "1", Purpose: "revoke"}
	value := make([]byte, 200)
	_, _ = rand.Read(value)
	place := []byte("a row's place")
	sealedRow, err := rows.Seal(row, value)
	if err != nil {
		return err
	}
	sealedInside, err := inside.Seal(b.ctx, value, place)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name      string
		hsm, mine func() error
	}{
		{
			"seal 200 bytes",
			func() error { _, err := inside.Seal(b.ctx, value, place); return err },
			func() error { _, err := rows.Seal(row, value); return err },
		},
		{
			"open 200 bytes",
			func() error { _, err := inside.Open(b.ctx, sealedInside, place); return err },
			func() error { _, err := rows.Open(row, sealedRow); return err },
		},
	} {
		hsm, mine, err := b.turns([]func() error{c.hsm}, []func() error{c.mine})
		if err != nil {
			return err
		}
		if err := b.add("token "+c.name, 1e6/hsm.rate, "µs", "token "+c.name); err != nil {
			return err
		}
		if err := b.add("row "+c.name, 1e6/mine.rate, "µs", "token "+c.name); err != nil {
			return err
		}
	}
	return nil
}
