package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// session is one session with the token, in one pair of hands at a time.
type session struct {
	handle  p11.SessionHandle
	objects map[*object]p11.ObjectHandle // looked up once, valid as long as the session
}

// object names a key of the token for good; its handle changes with the session.
type object struct {
	class uint
	label string
	id    []byte
}

// do runs an operation with a session of its own. After any error of the module
// the session is thrown away, because an operation may be half done on it; one
// that died behind our back gets a second try with a new one.
func (t *Token) do(ctx context.Context, operation func(*session) error) error {
	s, err := t.take(ctx)
	if err != nil {
		return err
	}
	defer func() { t.free <- s }()
	for again := true; ; again = false {
		if s == nil {
			if s, err = t.openSession(); err != nil {
				return err
			}
		}
		err = operation(s)
		if _, ok := errors.AsType[p11.Error](err); !ok {
			return err
		}
		t.discard(s)
		s = nil
		if !again || !isStale(err) || ctx.Err() != nil {
			return err
		}
	}
}

// isStale tells a session or handle that is of no use from an operation that
// failed.
func isStale(err error) bool {
	return isCode(err, p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN,
		p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID, p11.CKR_OPERATION_ACTIVE)
}

// take waits for a session; nil is the right to open one.
func (t *Token) take(ctx context.Context) (*session, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("using token %s: %w", t.config.TokenLabel, context.Cause(ctx))
	}
	select {
	case s := <-t.free:
		return s, nil
	default:
	}
	timer := time.NewTimer(sessionWait)
	defer timer.Stop()
	select {
	case s := <-t.free:
		return s, nil
	case <-t.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a session with token %s: %w", t.config.TokenLabel, context.Cause(ctx))
	case <-timer.C:
		return nil, fmt.Errorf("waiting %s for a session with token %s: %w", sessionWait, t.config.TokenLabel, ErrBusy)
	}
}

func (t *Token) openSession() (*session, error) {
	select {
	case <-t.closing:
		return nil, ErrClosed
	default:
	}
	flags := uint(p11.CKF_SERIAL_SESSION)
	if t.config.Create {
		flags |= p11.CKF_RW_SESSION
	}
	handle, err := t.module.ctx.OpenSession(t.slot, flags)
	if err != nil {
		return nil, fmt.Errorf("opening a session with token %s: %w", t.config.TokenLabel, err)
	}
	s := &session{handle: handle, objects: map[*object]p11.ObjectHandle{}}
	if err := t.logIn(s); err != nil {
		t.discard(s)
		return nil, err
	}
	return s, nil
}

func (t *Token) logIn(s *session) error {
	t.login.Lock()
	defer t.login.Unlock()
	if t.refused != nil {
		return t.refused
	}
	err := t.module.ctx.Login(s.handle, p11.CKU_USER, t.config.PIN.Reveal())
	switch {
	case err == nil, isCode(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case isCode(err, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_LOCKED, p11.CKR_USER_PIN_NOT_INITIALIZED):
		t.refused = fmt.Errorf("logging in to token %s: %w: %w (hint: it is not tried again until a restart, lest the token lock itself)",
			t.config.TokenLabel, ErrPIN, err)
		return t.refused
	default:
		return fmt.Errorf("logging in to token %s: %w", t.config.TokenLabel, err)
	}
}

// discard closes a session that may be dead already.
func (t *Token) discard(s *session) {
	if s != nil {
		_ = t.module.ctx.CloseSession(s.handle)
	}
}

// handle looks an object up, once per session.
func (t *Token) handle(s *session, o *object) (p11.ObjectHandle, error) {
	if h, ok := s.objects[o]; ok {
		return h, nil
	}
	h, err := t.findOne(s, o)
	if errors.Is(err, errNone) {
		return 0, fmt.Errorf("%w: %s is no longer in token %s", keys.ErrNoKey, o.label, t.config.TokenLabel)
	}
	if err != nil {
		return 0, err
	}
	s.objects[o] = h
	return h, nil
}

// errNone says that a search found nothing.
var errNone = errors.New("not found in the token")

// findOne finds the object of that class and label, and id where it has one.
func (t *Token) findOne(s *session, o *object) (p11.ObjectHandle, error) {
	// Without a login a search succeeds, and finds no private keys.
	info, err := t.module.ctx.GetSessionInfo(s.handle)
	if err == nil && info.State != p11.CKS_RO_USER_FUNCTIONS && info.State != p11.CKS_RW_USER_FUNCTIONS {
		err = p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for key %s: %w", o.label, err)
	}
	template := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_CLASS, o.class),
		p11.NewAttribute(p11.CKA_LABEL, o.label),
	}
	if len(o.id) > 0 {
		template = append(template, p11.NewAttribute(p11.CKA_ID, o.id))
	}
	if err := t.module.ctx.FindObjectsInit(s.handle, template); err != nil {
		return 0, fmt.Errorf("looking for key %s: %w", o.label, err)
	}
	found, _, err := t.module.ctx.FindObjects(s.handle, 2)
	if err := errors.Join(err, t.module.ctx.FindObjectsFinal(s.handle)); err != nil {
		return 0, fmt.Errorf("looking for key %s: %w", o.label, err)
	}
	switch len(found) {
	case 0:
		return 0, errNone
	case 1:
		return found[0], nil
	default:
		return 0, fmt.Errorf("looking for key %s: token %s has several of that label (hint: remove or relabel all but one, with `pkcs11-tool --list-objects` and `--delete-object`)",
			o.label, t.config.TokenLabel)
	}
}

// named is an attribute, and how an error calls it.
type named struct {
	name string
	want *p11.Attribute
}

// mustHave refuses a key without these attributes.
func (t *Token) mustHave(s *session, label string, h p11.ObjectHandle, wanted []named) error {
	for _, w := range wanted {
		value, err := t.attribute(s, h, w.want.Type)
		if err != nil {
			return fmt.Errorf("reading %s of key %s: %w", w.name, label, err)
		}
		if !bytes.Equal(value, w.want.Value) {
			return fmt.Errorf("key %s can't be used: its %s is not what it must be (hint: give the broker a key that it made itself, under another label)", label, w.name)
		}
	}
	return nil
}

func (t *Token) attribute(s *session, h p11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := t.module.ctx.GetAttributeValue(s.handle, h, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, err
	}
	return got[0].Value, nil
}

// identify reads the CKA_ID by which a key is found again.
func (t *Token) identify(s *session, label string, h p11.ObjectHandle) ([]byte, error) {
	id, err := t.attribute(s, h, p11.CKA_ID)
	if err != nil {
		return nil, fmt.Errorf("reading CKA_ID of key %s: %w", label, err)
	}
	if len(id) == 0 {
		return nil, fmt.Errorf("key %s has no CKA_ID (hint: set one, with `pkcs11-tool --set-id`)", label)
	}
	return id, nil
}
