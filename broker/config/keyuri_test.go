package config

import (
	"strings"
	"testing"
)

const (
	signingKey = "signing: {type: software, dir: /keys, pin_file: /pin}"
	wholeURI   = "pkcs11:token=hsm;serial=4a0b;manufacturer=m;model=n;object=sign;id=%01%02;type=private;slot-id=7?module-path=/lib/hsm.so&pin-source=file:/run/pin"
)

func withSigning(key string) string { return strings.Replace(minimal, signingKey, "signing: "+key, 1) }

func TestKeyURI(t *testing.T) {
	c, mistakes := parse(t, withSigning(`{uri: "`+wholeURI+`", algorithm: ES384, rotate_every: never}`))
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	k := c.Keys.Signing
	if k.Type != KeyPKCS11 || k.Module != "/lib/hsm.so" || k.Token != "hsm" || k.Serial != "4a0b" || k.Manufacturer != "m" || k.Model != "n" ||
		k.Label != "sign" || string(k.ID) != "\x01\x02" || k.SlotID == nil || *k.SlotID != 7 || k.PINFile != "/run/pin" || k.Algorithm != "ES384" {
		t.Errorf("read %+v", k)
	}
	// What the URI leaves open may stand beside it.
	c, mistakes = parse(t, withSigning(`{type: pkcs11, uri: "pkcs11:serial=4a0b;object=sign", module: /lib/hsm.so, pin: "${PIN}"}`), "PIN=1234")
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	if k := c.Keys.Signing; k.Module != "/lib/hsm.so" || k.Token != "" || k.Serial != "4a0b" || k.Label != "sign" || k.PIN.Reveal() != "1234" || k.ID != nil {
		t.Errorf("read %+v", k)
	}
}

func TestKeyURIMistakes(t *testing.T) {
	for key, want := range map[string]string{
		`{uri: "` + wholeURI + `"}`: "the uri names one key by its id",
		`{uri: "pkcs12:a"}`:         "not begin with pkcs11:",
		`{uri: "pkcs11:token=hsm;object=sign?module-path=/lib/hsm.so&pin-value=1234"}`:                            "hint",
		`{uri: "pkcs11:token=hsm?module-path=/lib/hsm.so&pin-source=file:/p"}`:                                    "the uri names no key",
		`{uri: "pkcs11:object=sign?module-path=/lib/hsm.so&pin-source=file:/p"}`:                                  "the uri names no token",
		`{uri: "pkcs11:token=hsm;object=sign?pin-source=file:/p"}`:                                                "the key module is missing",
		`{uri: "pkcs11:token=hsm;object=sign?module-path=/lib/hsm.so"}`:                                           "the key pin_file is missing",
		`{uri: "pkcs11:token=hsm;object=sign;type=secret-key?module-path=/lib/hsm.so&pin-source=file:/p"}`:        "an object of another type",
		`{uri: "pkcs11:token=hsm;object=sign?module-path=/lib/hsm.so&pin-source=file:/p", token: hsm}`:            "both token and a uri",
		`{uri: "pkcs11:serial=1;object=sign?module-path=/lib/hsm.so&pin-source=file:/p", label: x}`:               "both label and a uri",
		`{uri: "pkcs11:token=hsm;object=sign?module-path=/lib/hsm.so&pin-source=file:/p", module: /lib/hsm.so}`:   "both module and a uri",
		`{uri: "pkcs11:token=hsm;object=sign?module-path=/lib/hsm.so&pin-source=file:/p", pin_file: /p}`:          "both pin_file and a uri",
		`{type: software, dir: /keys, pin_file: /pin, uri: "pkcs11:token=hsm;object=sign"}`:                       "a key of type software has no uri",
		`{type: pkcs11, dir: /keys, uri: "pkcs11:token=hsm;object=s?module-path=/lib/hsm.so&pin-source=file:/p"}`: "a key of type pkcs11 has no dir",
	} {
		_, mistakes := parse(t, withSigning(key))
		if len(mistakes) != 1 || !strings.Contains(mistakes[0].String(), want) || !strings.Contains(mistakes[0].String(), "hint") {
			t.Errorf("%s: %v, want %q and a hint", key, mistakes, want)
		}
		for _, m := range mistakes {
			if strings.Contains(m.String(), "1234") {
				t.Errorf("%s: the mistake tells the PIN: %v", key, m)
			}
		}
	}
}
