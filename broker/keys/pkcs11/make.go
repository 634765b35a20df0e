package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// MakeSigner implements keys.Store.
func (t *Token) MakeSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return t.makeSigner(ctx, pair, "")
}

func (t *Token) makeSigner(ctx context.Context, pair keys.Pair, id string) (keys.Signer, error) {
	how, err := howTo(pair.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("making key %s: %w", pair.Label, err)
	}
	bits := pair.Bits
	if bits == 0 {
		bits = keys.DefaultBits
	}
	if how.keyType == p11.CKK_RSA && bits != 2048 && bits != 3072 && bits != 4096 {
		return nil, fmt.Errorf("making key %s: an RSA key has 2048, 3072 or 4096 bits, not %d", pair.Label, bits)
	}
	err = t.make(ctx, objectName{class: p11.CKO_PRIVATE_KEY, label: pair.Label, id: id}, func(s *session, n objectName) error {
		return t.generatePair(s, n, how, bits)
	})
	if err != nil {
		return nil, err
	}
	return t.openSigner(ctx, pair, id)
}

// MakeSealer implements keys.Store.
func (t *Token) MakeSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return t.makeSealer(ctx, label, "")
}

func (t *Token) makeSealer(ctx context.Context, label, id string) (keys.Sealer, error) {
	if err := t.make(ctx, objectName{class: p11.CKO_SECRET_KEY, label: label, id: id}, t.generateAES); err != nil {
		return nil, err
	}
	return t.openSealer(ctx, label, id)
}

// make makes a key where there is none of that label.
func (t *Token) make(ctx context.Context, n objectName, generate func(*session, objectName) error) error {
	if n.label == "" || len(n.label) > 255 {
		return errors.New("making key: a label of at most 255 bytes is required")
	}
	if n.id == "" {
		id := make([]byte, 16)
		if _, err := rand.Read(id); err != nil {
			return err
		}
		n.id = string(id)
	}
	ctx, cancel := bounded(ctx, makeWait)
	defer cancel()
	unlock, err := t.module.lockMaking(ctx)
	if err != nil {
		return fmt.Errorf("making key %s: %w", n.label, err)
	}
	defer unlock()
	made := false // by a try that the token broke off
	_, err = write(ctx, t, func(s *session) (struct{}, error) {
		same, err := t.find(s, objectName{class: n.class, label: n.label}, 2)
		if err != nil {
			return struct{}{}, err
		}
		if len(same) > 0 && !made {
			return struct{}{}, keys.ErrKeyExists
		}
		if len(same) == 0 {
			made = true
			if err := generate(s, n); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, t.settle(ctx, s, n)
	})
	if err != nil {
		return fmt.Errorf("making key %s in token %s: %w", n.label, t.config.name(), err)
	}
	return nil
}

const (
	// settleWait is how long the maker of a key waits for another process, which made
	// one of the same label at the same moment, to take its own away.
	settleWait = time.Second
	settleStep = 20 * time.Millisecond
	// openWait is how long who opens a key waits for its makers: they have to have
	// settled by then.
	openWait = 3 * settleWait
)

// settle looks again after a key was made. PKCS#11 has no lock that another
// process would see, so two may find a label free at one moment, and both make
// it. Both then see two keys, or the later one does: the key whose CKA_ID sorts
// higher goes. Where the other is gone already, having seen nothing, the later
// one waits for it in vain, and gives way.
func (t *Token) settle(ctx context.Context, s *session, n objectName) error {
	limit := time.NewTimer(settleWait)
	defer limit.Stop()
	tick := time.NewTicker(settleStep)
	defer tick.Stop()
	for {
		lowest, alone, err := t.lowest(s, n)
		switch {
		case err != nil || alone:
			return err
		case !lowest:
			return t.remove(s, n)
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return t.remove(s, n)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// useSettled is use for a search, which waits while there are several keys of that
// label: the makers may be at it.
func useSettled[T any](ctx context.Context, t *Token, search func(*session) (T, error)) (T, error) {
	limit := time.NewTimer(openWait)
	defer limit.Stop()
	tick := time.NewTicker(settleStep)
	defer tick.Stop()
	for {
		found, err := use(ctx, t, search)
		if !errors.Is(err, errSeveral) {
			return found, err
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return found, err
		case <-ctx.Done():
			return found, err
		}
	}
}

// lowest says whether a key's CKA_ID sorts first among those of its label, and
// whether it is the only one.
func (t *Token) lowest(s *session, n objectName) (lowest, alone bool, err error) {
	same, err := t.find(s, objectName{class: n.class, label: n.label}, mostKeys)
	if err != nil {
		return false, false, err
	}
	lowest = true
	for _, h := range same {
		id, err := t.attribute(s, h, p11.CKA_ID)
		if isCode(err, p11.CKR_OBJECT_HANDLE_INVALID) {
			continue // the other has just taken it away
		}
		if err != nil {
			return false, false, err
		}
		lowest = lowest && bytes.Compare([]byte(n.id), id) <= 0
	}
	return lowest, len(same) == 1, nil
}

// halves are the classes of the objects that are one key.
func halves(class uint) []uint {
	if class == p11.CKO_SECRET_KEY {
		return []uint{class}
	}
	return []uint{p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY}
}

// remove destroys what has that label and id.
func (t *Token) remove(s *session, n objectName) error {
	for _, class := range halves(n.class) {
		all, err := t.find(s, objectName{class: class, label: n.label, id: n.id}, mostKeys)
		if err != nil {
			return err
		}
		for _, h := range all {
			if err := t.calls.DestroyObject(s.handle, h); err != nil {
				return fmt.Errorf("destroying key %s: %w", n.label, err)
			}
		}
	}
	return nil
}

// generatePair makes a key pair that can sign, and nothing else.
func (t *Token) generatePair(s *session, n objectName, how mechanics, bits int) error {
	if err := t.can(how); err != nil {
		return err
	}
	public := append(common(n, false), p11.NewAttribute(p11.CKA_VERIFY, true))
	private := append(common(n, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
		p11.NewAttribute(p11.CKA_UNWRAP, false),
		p11.NewAttribute(p11.CKA_DERIVE, false))
	if how.keyType == p11.CKK_RSA {
		public = append(public, p11.NewAttribute(p11.CKA_MODULUS_BITS, bits), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
			p11.NewAttribute(p11.CKA_ENCRYPT, false), p11.NewAttribute(p11.CKA_WRAP, false), p11.NewAttribute(p11.CKA_VERIFY_RECOVER, false))
		private = append(private, p11.NewAttribute(p11.CKA_SIGN_RECOVER, false))
		_, _, err := t.calls.GenerateKeyPair(s.handle, mechanism(how.generate, nil), public, private)
		return err
	}
	var err error
	for _, curve := range how.curves {
		_, _, err = t.calls.GenerateKeyPair(s.handle, mechanism(how.generate, nil), append(slices.Clip(public), p11.NewAttribute(p11.CKA_EC_PARAMS, curve)), private)
		if err == nil || !isCode(err, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_DOMAIN_PARAMS_INVALID, p11.CKR_CURVE_NOT_SUPPORTED, p11.CKR_TEMPLATE_INCONSISTENT) {
			return err
		}
	}
	return err
}

// can says whether the token has the mechanisms of an algorithm.
func (t *Token) can(how mechanics) error {
	slot, err := t.slot()
	if err != nil {
		return err
	}
	list, err := t.calls.GetMechanismList(slot)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		name string
		kind uint
	}{{"makes keys by mechanism", how.generate}, {"signs by mechanism", how.sign[0].Mechanism}} {
		if !slices.ContainsFunc(list, func(has *p11.Mechanism) bool { return has.Mechanism == m.kind }) {
			return fmt.Errorf("%w: nothing in it %s 0x%04x (hint: `pkcs11-tool --list-mechanisms` tells what it can; ES256 is nearly everywhere)", ErrAlgorithm, m.name, m.kind)
		}
	}
	return nil
}

// common are the attributes of every object that is made.
func common(n objectName, private bool) []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, private),
		p11.NewAttribute(p11.CKA_LABEL, n.label),
		p11.NewAttribute(p11.CKA_ID, []byte(n.id)),
	}
}

func (t *Token) generateAES(s *session, n objectName) error {
	_, err := t.calls.GenerateKey(s.handle, mechanism(p11.CKM_AES_KEY_GEN, nil), append(common(n, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, t.config.WrappedBackup),
		p11.NewAttribute(p11.CKA_WRAP_WITH_TRUSTED, t.config.WrappedBackup),
		p11.NewAttribute(p11.CKA_VALUE_LEN, keySize),
		p11.NewAttribute(p11.CKA_ENCRYPT, true),
		p11.NewAttribute(p11.CKA_DECRYPT, true),
		p11.NewAttribute(p11.CKA_SIGN, false),
		p11.NewAttribute(p11.CKA_VERIFY, false),
		p11.NewAttribute(p11.CKA_WRAP, false),
		p11.NewAttribute(p11.CKA_UNWRAP, false),
		p11.NewAttribute(p11.CKA_DERIVE, false)))
	return err
}
