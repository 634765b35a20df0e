package uri_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/keys/pkcs11/uri"
)

func TestParse(t *testing.T) {
	seven := uint(7)
	for text, want := range map[string]uri.URI{
		"pkcs11:": {},
		"pkcs11:token=daypass;object=daypass-signing": {Token: "daypass", Object: "daypass-signing"},
		"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0": {
			Token: "The Software PKCS#11 Softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0",
		},
		"pkcs11:object=my-pubkey;type=public;id=%69%95%3E%5C%F4%BD%EC%91": {Object: "my-pubkey", Type: uri.TypePublic, ID: []byte("\x69\x95\x3e\x5c\xf4\xbd\xec\x91")},
		"pkcs11:token=a;serial=4a0b;manufacturer=m;model=n;object=o;id=i;type=private;slot-id=7?module-path=/usr/lib/x.so&pin-source=file:/run/pin": {
			Token: "a", Serial: "4a0b", Manufacturer: "m", Model: "n", Object: "o", ID: []byte("i"), Type: uri.TypePrivate, SlotID: &seven,
			ModulePath: "/usr/lib/x.so", PINFile: "/run/pin",
		},
		"pkcs11:token=a?pin-source=file:///run/pin": {Token: "a", PINFile: "/run/pin"},
		"pkcs11:token=%C3%A4":                       {Token: "ä"},
	} {
		got, err := uri.Parse(text)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
			continue
		}
		if again, err := uri.Parse(got.String()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: written as %s, %v", text, got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                             "not begin with pkcs11:",
		"PKCS11:token=a":                               "not begin with pkcs11:",
		"pkcs11:token":                                 "name=value",
		"pkcs11:=a":                                    "name=value",
		"pkcs11:token=a;":                              "name=value",
		"pkcs11:token=a;token=a":                       "token stands there twice",
		"pkcs11:token=":                                "token is empty",
		"pkcs11:colour=a":                              "colour, which isn't known",
		"pkcs11:x-vendor=a":                            "isn't known",
		"pkcs11:TOKEN=a":                               "a-z, 0-9 and -",
		"pkcs11:token=a%":                              "bad percent-encoding",
		"pkcs11:token=a%2":                             "bad percent-encoding",
		"pkcs11:token=a%zz":                            "bad percent-encoding",
		"pkcs11:token=a b":                             "has to be percent-encoded",
		"pkcs11:token=a/b":                             "has to be percent-encoded",
		"pkcs11:token=a#b":                             "has to be percent-encoded",
		"pkcs11:token=ä":                               "has to be percent-encoded",
		"pkcs11:token=%ff":                             "printable",
		"pkcs11:token=a%00b":                           "printable",
		"pkcs11:type=key":                              "type is private",
		"pkcs11:slot-id=01":                            "decimal",
		"pkcs11:slot-id=-1":                            "decimal",
		"pkcs11:slot-id=99999999999":                   "decimal",
		"pkcs11:id=" + strings.Repeat("a", 256):        "more than 255",
		"pkcs11:pin-value=1234":                        "pin-source",
		"pkcs11:token=a?pin-value=1234":                "pin-source",
		"pkcs11:token=a?pin-source=|/bin/sh":           "no program is run",
		"pkcs11:token=a?pin-source=/run/pin":           "file: and an absolute path",
		"pkcs11:token=a?pin-source=file:pin":           "file: and an absolute path",
		"pkcs11:token=a?pin-source=file://h/p":         "file: and an absolute path",
		"pkcs11:token=a?pin-source=https://h/p":        "file: and an absolute path",
		"pkcs11:token=a?module-path=x.so":              "absolute",
		"pkcs11:token=a?module-name=softhsm2":          "module-path",
		"pkcs11:token=a?x=y":                           "isn't known",
		"pkcs11:module-path=a":                         "after the question mark",
		"pkcs11:token=a?module-path=/a&module-path=/b": "twice",
		"pkcs11:" + strings.Repeat("a", 5000):          "more than 4096",
	} {
		u, err := uri.Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %+v, %v; want %q", text, u, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: the error tells the PIN: %v", text, err)
		}
	}
}

func FuzzURI(f *testing.F) {
	for _, seed := range []string{
		"pkcs11:token=daypass;object=daypass-signing", "pkcs11:token=a;id=%69%95;slot-id=7;type=private?module-path=/usr/lib/x.so&pin-source=file:/run/pin",
		"pkcs11:?pin-source=file:///a", "pkcs11:token=%", "pkcs11:pin-value=1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := uri.Parse(text)
		if err != nil {
			return
		}
		again, err := uri.Parse(u.String())
		if err != nil || !reflect.DeepEqual(again, u) {
			t.Errorf("%q is %+v, written as %s it is %+v, %v", text, u, u, again, err)
		}
	})
}
