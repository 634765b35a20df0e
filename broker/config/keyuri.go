package config

import (
	"strings"

	"github.com/daypass/daypass/broker/keys/pkcs11/uri"
	"github.com/daypass/daypass/policies/strictyaml"
)

// keyURI fills in what a key's PKCS#11 URI (RFC 7512) says: it stands in place of
// module, token, label and pin_file. kind is the type that the object must have,
// where the URI names one. It says false where the URI can't be read: what else is
// wrong with the key can't be said then.
func (l *loader) keyURI(k *Key, kind string) bool {
	if k.URI == "" {
		return true
	}
	at := k.At.Of("uri")
	u, err := uri.Parse(k.URI)
	if err != nil {
		hint := "for example pkcs11:token=daypass;object=daypass-signing?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/hsm-pin"
		if strings.Contains(err.Error(), "hint: ") {
			hint = ""
		}
		l.add(at, hint, "%v", err)
		return false
	}
	if k.Type == "" {
		k.Type = KeyPKCS11
	}
	if k.Type != KeyPKCS11 {
		l.add(at, "take it out", "a key of type %s has no uri", k.Type)
		return true
	}
	l.uriBeside(k, u)
	if u.Token == "" && u.Serial == "" {
		l.add(at, "add token=… or serial=…", "the uri names no token")
	}
	if u.Object == "" {
		l.add(at, "add object=…, the key's label", "the uri names no key")
	}
	if u.Type != "" && u.Type != kind {
		l.add(at, "write type="+kind+", or leave it out", "the uri names an object of another type")
	}
	k.Token, k.Serial, k.Manufacturer, k.Model, k.SlotID = u.Token, u.Serial, u.Manufacturer, u.Model, u.SlotID
	k.Label, k.ID = u.Object, u.ID
	if u.ModulePath != "" {
		k.Module = u.ModulePath
	}
	if u.PINFile != "" {
		k.PINFile = u.PINFile
	}
	return true
}

// uriBeside refuses keys that stand beside a URI that says the same.
func (l *loader) uriBeside(k *Key, u *uri.URI) {
	beside := []struct{ key, says string }{{"token", u.Token + u.Serial}, {"label", u.Object}, {"module", u.ModulePath}, {"pin_file", u.PINFile}, {"pin", u.PINFile}}
	for _, b := range beside {
		if !k.At.Has(b.key) {
			continue
		}
		if b.says != "" {
			l.add(k.At.Of(b.key), "leave one of them out", "both %s and a uri that says it", b.key)
		} else if b.key == "token" || b.key == "label" {
			l.add(k.At.Of(b.key), "write it into the uri", "%s beside a uri", b.key)
		}
	}
}

// inheritURI gives a key that is named by a URI what that leaves open: module and
// PIN of another key.
func (k *Key) inheritURI(other *Key) {
	if k.URI == "" || other.Type != KeyPKCS11 {
		return
	}
	if k.Module == "" {
		k.Module, k.Isolate, k.IsolateEnv = other.Module, other.Isolate, other.IsolateEnv
	}
	if k.PINFile == "" && k.RawPIN == "" {
		k.PINFile, k.PIN = other.PINFile, other.PIN
	}
}

// needToken asks for a token's label where no URI names the token.
func (l *loader) needToken(at strictyaml.Where, k *Key) {
	if k.URI == "" {
		l.need(at, "token", k.Token, "the label of the token")
	}
}
