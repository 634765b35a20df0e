// Package uri reads PKCS#11 URIs (RFC 7512), which say where a key is:
//
//	pkcs11:token=daypass;object=daypass-signing?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/hsm-pin
//
// The reader is strict: what it doesn't know is an error, since an attribute that
// is overlooked would select another key than the one that was meant. It needs
// no cgo, so configurations can be checked without a module.
package uri

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// URI is a PKCS#11 URI, its values decoded. An empty value is one that isn't there.
type URI struct {
	// Of the path: they select token and key.
	Token, Serial, Manufacturer, Model string
	Object                             string // CKA_LABEL
	ID                                 []byte // CKA_ID
	Type                               string // one of TypePrivate, TypePublic, TypeSecretKey, TypeCert, TypeData
	SlotID                             *uint

	// Of the query: they say how to get at it.
	ModulePath string // absolute
	PINFile    string // of pin-source=file:…; absolute
}

// The types of an object (RFC 7512 §2.3).
const (
	TypePrivate   = "private"
	TypePublic    = "public"
	TypeSecretKey = "secret-key"
	TypeCert      = "cert"
	TypeData      = "data"
)

const (
	scheme  = "pkcs11:"
	maxSize = 4096
	maxID   = 255
)

// Parse reads a URI. Its errors never repeat a value, which may be a PIN.
func Parse(text string) (*URI, error) {
	u, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading PKCS#11 URI: %w", err)
	}
	return u, nil
}

func parse(text string) (*URI, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("it has more than %d bytes", maxSize)
	}
	rest, ok := strings.CutPrefix(text, scheme)
	if !ok {
		return nil, errors.New("it does not begin with pkcs11: as it must")
	}
	path, query, asks := strings.Cut(rest, "?")
	u := &URI{}
	if err := u.each(path, ";", pathMarks, u.path); err != nil {
		return nil, err
	}
	if asks {
		if err := u.each(query, "&", queryMarks, u.query); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// What may stand in a value unescaped besides letters, digits and -._~ (RFC 7512
// §2.3: pk11-path-res-avail, pk11-query-res-avail).
const (
	pathMarks  = ":[]@!$'()*+,=&"
	queryMarks = ":[]@!$'()*+,=/?|"
)

// each reads attributes, each of which stands there once.
func (u *URI) each(part, separator, marks string, set func(name, value string) error) error {
	if part == "" {
		return nil
	}
	var seen []string
	for attribute := range strings.SplitSeq(part, separator) {
		name, escaped, ok := strings.Cut(attribute, "=")
		if !ok || name == "" {
			return errors.New("an attribute has the form name=value")
		}
		if !isName(name) {
			return errors.New("an attribute's name is made of a-z, 0-9 and -")
		}
		if slices.Contains(seen, name) {
			return fmt.Errorf("%s stands there twice", name)
		}
		seen = append(seen, name)
		value, err := unescape(escaped, marks)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if value == "" {
			return fmt.Errorf("%s is empty (hint: leave it out)", name)
		}
		if err := set(name, value); err != nil {
			return err
		}
	}
	return nil
}

func isName(s string) bool {
	return len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// path takes an attribute of the path.
func (u *URI) path(name, value string) error {
	text := map[string]*string{
		"token": &u.Token, "serial": &u.Serial, "manufacturer": &u.Manufacturer, "model": &u.Model, "object": &u.Object, "type": &u.Type,
	}[name]
	switch {
	case name == "id":
		if len(value) > maxID {
			return fmt.Errorf("id has more than %d bytes", maxID)
		}
		u.ID = []byte(value)
		return nil
	case name == "slot-id":
		return u.slot(value)
	case name == "pin-value":
		return errPIN
	case name == "module-path", name == "pin-source":
		return fmt.Errorf("%s stands after the question mark", name)
	case text == nil:
		return fmt.Errorf("it has an attribute %s, which isn't known here (hint: token, serial, manufacturer, model, object, id, type, slot-id)", name)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, isControl):
		return fmt.Errorf("%s is not made of printable characters", name)
	case name == "type" && !slices.Contains([]string{TypePrivate, TypePublic, TypeSecretKey, TypeCert, TypeData}, value):
		return errors.New("type is private, public, secret-key, cert or data")
	}
	*text = value
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func (u *URI) slot(value string) error {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != value {
		return errors.New("slot-id is a decimal number")
	}
	slot := uint(n)
	u.SlotID = &slot
	return nil
}

var errPIN = errors.New("pin-value puts the PIN where everybody reads it (hint: write pin-source=file:/path, pin_file, or pin: ${NAME})")

// query takes an attribute of the query.
func (u *URI) query(name, value string) error {
	if name == "pin-value" {
		return errPIN
	}
	if !utf8.ValidString(value) || strings.ContainsFunc(value, isControl) {
		return fmt.Errorf("%s is not made of printable characters", name)
	}
	switch name {
	case "module-path":
		if !strings.HasPrefix(value, "/") {
			return errors.New("module-path is absolute")
		}
		u.ModulePath = value
	case "pin-source":
		file, ok := strings.CutPrefix(value, "file:")
		file = strings.TrimPrefix(file, "//") // file:///path: without a host (RFC 8089 §2)
		if !ok || !strings.HasPrefix(file, "/") {
			return errors.New("pin-source is file: and an absolute path: nothing else is read, and no program is run")
		}
		u.PINFile = file
	case "module-name":
		return errors.New("module-name isn't looked up (hint: write module-path)")
	default:
		return fmt.Errorf("it has an attribute %s, which isn't known here (hint: module-path, pin-source)", name)
	}
	return nil
}

// unescape decodes percent-encoding, and refuses what had to be encoded.
func unescape(escaped, marks string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(escaped); i++ {
		c := escaped[i]
		switch {
		case c == '%':
			if i+3 > len(escaped) {
				return "", errors.New("bad percent-encoding")
			}
			var b [1]byte
			if _, err := hex.Decode(b[:], []byte(escaped[i+1:i+3])); err != nil {
				return "", errors.New("bad percent-encoding")
			}
			out.WriteByte(b[0])
			i += 2
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~"+marks, c) >= 0:
			out.WriteByte(c)
		default:
			return "", errors.New("a character that has to be percent-encoded")
		}
	}
	return out.String(), nil
}

// String writes the URI so that Parse reads the same.
func (u *URI) String() string {
	var path, query []string
	add := func(part *[]string, name, value, marks string) {
		if value != "" {
			*part = append(*part, name+"="+escape(value, marks))
		}
	}
	add(&path, "token", u.Token, pathMarks)
	add(&path, "serial", u.Serial, pathMarks)
	add(&path, "manufacturer", u.Manufacturer, pathMarks)
	add(&path, "model", u.Model, pathMarks)
	add(&path, "object", u.Object, pathMarks)
	add(&path, "id", string(u.ID), "")
	add(&path, "type", u.Type, pathMarks)
	if u.SlotID != nil {
		add(&path, "slot-id", strconv.FormatUint(uint64(*u.SlotID), 10), "")
	}
	add(&query, "module-path", u.ModulePath, queryMarks)
	if u.PINFile != "" {
		// In the long form, since a path may itself begin with two slashes.
		add(&query, "pin-source", "file://"+u.PINFile, queryMarks)
	}
	text := scheme + strings.Join(path, ";")
	if len(query) > 0 {
		text += "?" + strings.Join(query, "&")
	}
	return text
}

func escape(value, marks string) string {
	var out strings.Builder
	for i := range len(value) {
		c := value[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~"+marks, c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}
