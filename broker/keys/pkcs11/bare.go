package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// Bare is C_SignInit and C_Sign on a session of its own, with nothing around them:
// no pool, no deadline, no proof of the key, no look at the signature. It is the
// limit that a benchmark holds a Signer against; nothing else should sign by it.
// One caller at a time.
type Bare struct {
	opaque
	token   *Token
	session p11.SessionHandle
	key     p11.ObjectHandle
	signer  *signer
}

// Bare opens the session, for a signer of this token.
func (t *Token) Bare(s keys.Signer) (*Bare, error) {
	own, ok := s.(*signer)
	if !ok || own.token != t {
		return nil, errors.New("opening a bare session: the signer is not of this token")
	}
	slot, err := t.slot()
	if err != nil {
		return nil, err
	}
	handle, err := t.calls.OpenSession(slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		return nil, fmt.Errorf("opening a bare session: %w", err)
	}
	b := &Bare{token: t, session: handle, signer: own}
	// The login is the process's, so it is done.
	if b.key, err = t.findOne(&session{handle: handle}, own.private.objectName); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Sign gives what the token answers, as it answers it.
func (b *Bare) Sign(digest []byte) ([]byte, error) {
	if err := b.token.calls.SignInit(b.session, b.signer.how.sign, b.key); err != nil {
		return nil, err
	}
	return b.token.calls.Sign(b.session, b.signer.input(digest))
}

// Close closes the session.
func (b *Bare) Close() error { return b.token.calls.CloseSession(b.session) }
