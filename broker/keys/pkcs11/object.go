package pkcs11

import (
	"bytes"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// objectName says which object of the token is meant, for good; its handle changes
// with the session.
type objectName struct {
	class uint
	label string
	id    string // CKA_ID; "": any
}

// object is a key, and how it is proved that a handle is its own.
type object struct {
	objectName
	prove func(*session, p11.ObjectHandle) error
}

// errWrongKey is keys.ErrWrongKey, with which the session is thrown away.
var errWrongKey = keys.ErrWrongKey

// handle looks a key up, and proves it, once per session.
func (t *Token) handle(s *session, o *object) (p11.ObjectHandle, error) {
	if h, ok := s.objects[o.objectName]; ok {
		return h, nil
	}
	h, err := t.findOne(s, o.objectName)
	if errors.Is(err, errNone) {
		return 0, fmt.Errorf("%w: %s is no longer in token %s", keys.ErrNoKey, o.label, t.config.name())
	}
	if err != nil {
		return 0, err
	}
	if err := o.prove(s, h); err != nil {
		return 0, err
	}
	s.objects[o.objectName] = h
	return h, nil
}

// errNone says that a search found nothing.
var errNone = errors.New("not found in the token")

// errSeveral says that a search found more than was looked for.
var errSeveral = errors.New("has several of that label")

// findOne finds the object of that class and label, and id where it has one.
func (t *Token) findOne(s *session, n objectName) (p11.ObjectHandle, error) {
	found, err := t.find(s, n, 2)
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 0:
		return 0, errNone
	case 1:
		return found[0], nil
	default:
		return 0, fmt.Errorf("looking for key %s: token %s %w (hint: remove or relabel all but one, with `pkcs11-tool --list-objects` and `--delete-object`)",
			n.label, t.config.name(), errSeveral)
	}
}

// mostKeys bounds a search: a token that has more objects of one kind isn't ours.
const mostKeys = 10_000

// find finds objects, at most so many. A label of "" is any.
func (t *Token) find(s *session, n objectName, most int) (found []p11.ObjectHandle, err error) {
	// Without a login a search succeeds, and finds no private keys.
	info, err := t.calls.GetSessionInfo(s.handle)
	if err == nil && info.State != p11.CKS_RO_USER_FUNCTIONS && info.State != p11.CKS_RW_USER_FUNCTIONS {
		err = p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for key %s: %w", n.label, err)
	}
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_CLASS, n.class)}
	if n.label != "" {
		template = append(template, p11.NewAttribute(p11.CKA_LABEL, n.label))
	}
	if n.id != "" {
		template = append(template, p11.NewAttribute(p11.CKA_ID, []byte(n.id)))
	}
	if err := t.calls.FindObjectsInit(s.handle, template); err != nil {
		return nil, fmt.Errorf("looking for key %s: %w", n.label, err)
	}
	for len(found) < most {
		some, _, err := t.calls.FindObjects(s.handle, min(most-len(found), 100))
		if err != nil {
			return nil, fmt.Errorf("looking for key %s: %w", n.label, errors.Join(err, t.calls.FindObjectsFinal(s.handle)))
		}
		if len(some) == 0 {
			break
		}
		found = append(found, some...)
	}
	if err := t.calls.FindObjectsFinal(s.handle); err != nil {
		return nil, fmt.Errorf("looking for key %s: %w", n.label, err)
	}
	return found, nil
}

// required is an attribute, how an error calls it, and what it may be.
type required struct {
	name string
	kind uint
	want []any
}

func must(name string, kind uint, want ...any) required { return required{name, kind, want} }

// inside are the attributes of a key that never was outside of the token, nor
// can get there.
func inside() []required {
	return []required{
		must("CKA_SENSITIVE (true)", p11.CKA_SENSITIVE, true),
		must("CKA_ALWAYS_SENSITIVE (true)", p11.CKA_ALWAYS_SENSITIVE, true),
		must("CKA_EXTRACTABLE (false)", p11.CKA_EXTRACTABLE, false),
		must("CKA_NEVER_EXTRACTABLE (true)", p11.CKA_NEVER_EXTRACTABLE, true),
	}
}

// mustHave refuses a key without these attributes.
func (t *Token) mustHave(s *session, label string, h p11.ObjectHandle, wanted []required) error {
	for _, w := range wanted {
		value, err := t.attribute(s, h, w.kind)
		if err != nil {
			return fmt.Errorf("reading %s of key %s: %w", w.name, label, err)
		}
		fits := false
		for _, want := range w.want {
			fits = fits || bytes.Equal(value, p11.NewAttribute(w.kind, want).Value)
		}
		if !fits {
			return fmt.Errorf("key %s can't be used: its %s is not what it must be (hint: give the broker a key that it made itself, under another label)", label, w.name)
		}
	}
	return nil
}

func (t *Token) attribute(s *session, h p11.ObjectHandle, kind uint) ([]byte, error) {
	got, err := t.calls.GetAttributeValue(s.handle, h, []*p11.Attribute{p11.NewAttribute(kind, nil)})
	if err != nil {
		return nil, err
	}
	if len(got) != 1 {
		return nil, fmt.Errorf("the token answered %d attributes instead of one", len(got))
	}
	return got[0].Value, nil
}

// identify reads the CKA_ID by which a key is found again.
func (t *Token) identify(s *session, label string, h p11.ObjectHandle) (string, error) {
	id, err := t.attribute(s, h, p11.CKA_ID)
	if err != nil {
		return "", fmt.Errorf("reading CKA_ID of key %s: %w", label, err)
	}
	if len(id) == 0 {
		return "", fmt.Errorf("key %s has no CKA_ID (hint: set one, with `pkcs11-tool --set-id`)", label)
	}
	return string(id), nil
}
