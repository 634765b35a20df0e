package pkcs11

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// Destroy implements keys.Store: of a pair, both halves.
func (t *Token) Destroy(ctx context.Context, label string) error { return t.destroy(ctx, label, "") }

func (t *Token) destroy(ctx context.Context, label, id string) error {
	if label == "" {
		return errors.New("destroying key: a label is required")
	}
	begun := false // by a try that the token broke off
	_, err := write(ctx, t, func(s *session) (struct{}, error) {
		for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_SECRET_KEY} {
			n := objectName{class: class, label: label, id: id}
			h, err := t.findOne(s, n)
			if errors.Is(err, errNone) {
				continue
			}
			if err != nil {
				return struct{}{}, err
			}
			begun = true
			found, err := t.attribute(s, h, p11.CKA_ID)
			if err != nil {
				return struct{}{}, err
			}
			if err := t.calls.DestroyObject(s.handle, h); err != nil {
				return struct{}{}, err
			}
			if n.id = string(found); n.id == "" {
				continue // which public half is its own can't be told
			}
			if err := t.remove(s, n); err != nil {
				return struct{}{}, err
			}
		}
		if !begun {
			return struct{}{}, keys.ErrNoKey
		}
		return struct{}{}, nil
	})
	if err != nil {
		return fmt.Errorf("destroying key %s in token %s: %w", label, t.config.name(), err)
	}
	return nil
}

// List implements keys.Store. Keys of kinds that the broker has no use for, and
// those without a label or CKA_ID, are left out.
func (t *Token) List(ctx context.Context) ([]keys.Info, error) {
	all, err := use(ctx, t, func(s *session) ([]keys.Info, error) {
		var all []keys.Info
		for class, describe := range map[uint]func(*session, objectName, p11.ObjectHandle) (keys.Info, error){
			p11.CKO_PRIVATE_KEY: t.describePair, p11.CKO_SECRET_KEY: t.describeAES,
		} {
			handles, err := t.find(s, objectName{class: class}, mostKeys)
			if err != nil {
				return nil, err
			}
			for _, h := range handles {
				label, err := t.attribute(s, h, p11.CKA_LABEL)
				if err != nil {
					return nil, err
				}
				id, err := t.attribute(s, h, p11.CKA_ID)
				if err != nil {
					return nil, err
				}
				if len(label) == 0 || len(id) == 0 {
					continue
				}
				info, err := describe(s, objectName{class: class, label: string(label), id: string(id)}, h)
				if err != nil {
					return nil, err
				}
				if info.KeyID != "" {
					all = append(all, info)
				}
			}
		}
		return all, nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the keys of token %s: %w", t.config.name(), err)
	}
	sortInfos(all)
	return all, nil
}

// describePair tells of a key pair; its KeyID is empty where it can't be used.
func (t *Token) describePair(s *session, n objectName, private p11.ObjectHandle) (keys.Info, error) {
	h, err := t.findOne(s, objectName{class: p11.CKO_PUBLIC_KEY, label: n.label, id: n.id})
	if err != nil {
		if ofToken(err) {
			return keys.Info{}, err
		}
		return keys.Info{}, nil // it has none, or several
	}
	for _, algorithm := range keys.Algorithms() {
		how, err := howTo(algorithm)
		if err != nil {
			return keys.Info{}, err
		}
		if unfit := t.mustHave(s, n.label, private, how.kind()); unfit != nil {
			if ofToken(unfit) && !isCode(unfit, p11.CKR_ATTRIBUTE_TYPE_INVALID) {
				return keys.Info{}, unfit
			}
			continue
		}
		public, err := how.public(t, s, h)
		if err != nil || keys.AlgorithmOf(public) != algorithm {
			return keys.Info{}, ifOfToken(err)
		}
		id, err := keys.KeyID(public)
		return keys.Info{Label: n.label, Algorithm: algorithm, KeyID: id}, err
	}
	return keys.Info{}, nil
}

func ifOfToken(err error) error {
	if ofToken(err) {
		return err
	}
	return nil
}

// describeAES tells of a sealing key.
func (t *Token) describeAES(s *session, n objectName, h p11.ObjectHandle) (keys.Info, error) {
	wanted, unfit := t.sealingMust(s, h)
	if unfit == nil {
		unfit = t.mustHave(s, n.label, h, wanted)
	}
	if unfit != nil {
		return keys.Info{}, ifOfToken(unfit)
	}
	return keys.Info{Label: n.label, KeyID: t.sealerID(n.id)}, nil
}

func sortInfos(all []keys.Info) {
	slices.SortFunc(all, func(a, b keys.Info) int {
		return cmp.Or(strings.Compare(a.Label, b.Label), strings.Compare(a.Algorithm, b.Algorithm), strings.Compare(a.KeyID, b.KeyID))
	})
}

// WithID is the token as a store in which the key that is opened, made or
// destroyed has that CKA_ID besides its label: for keys that are named by an RFC
// 7512 URI with an id.
func (t *Token) WithID(id []byte) keys.Store { return &identified{Token: t, id: string(id)} }

type identified struct {
	*Token
	id string
}

// OpenSigner implements keys.Store.
func (i *identified) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return i.openSigner(ctx, pair, i.id)
}

// MakeSigner implements keys.Store.
func (i *identified) MakeSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return i.makeSigner(ctx, pair, i.id)
}

// OpenSealer implements keys.Store.
func (i *identified) OpenSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return i.openSealer(ctx, label, i.id)
}

// MakeSealer implements keys.Store.
func (i *identified) MakeSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return i.makeSealer(ctx, label, i.id)
}

// Destroy implements keys.Store.
func (i *identified) Destroy(ctx context.Context, label string) error {
	return i.destroy(ctx, label, i.id)
}
