package keys_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSigner(t testing.TB) keys.Signer {
	t.Helper()
	signer, err := keys.NewSigner(newKey(t, elliptic.P256()), keys.ES256)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func TestKeyIDIsTheThumbprint(t *testing.T) {
	// A P-256 key printed in RFC 7517 appendix A.1; its thumbprint was taken with
	// `openssl dgst -sha256` over the canonical JSON of RFC 7638 §3.2.
	point := []byte{4}
	for _, half := range []string{"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"} {
		raw, err := base64.RawURLEncoding.DecodeString(half)
		if err != nil {
			t.Fatal(err)
		}
		point = append(point, raw...)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	id, err := keys.KeyID(public)
	if err != nil || id != "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s" {
		t.Errorf("KeyID = %q, %v", id, err)
	}
	if one, two := newSigner(t), newSigner(t); one.KeyID() == two.KeyID() {
		t.Error("two keys have one id")
	}
}

// liar is a Signer that is wrong in one way.
type liar struct {
	keys.Signer
	public    crypto.PublicKey
	algorithm string
	sign      func(digest []byte) ([]byte, error)
}

func (l liar) Public() crypto.PublicKey { return l.public }
func (l liar) Algorithm() string        { return l.algorithm }
func (l liar) SignContext(_ context.Context, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	return l.sign(digest)
}

func TestSelfTest(t *testing.T) {
	good := newSigner(t)
	sign := func(digest []byte) ([]byte, error) { return good.Sign(rand.Reader, digest, crypto.SHA256) }
	if err := keys.SelfTest(liar{good, good.Public(), keys.ES256, sign}); err != nil {
		t.Errorf("a good key: %v", err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bad  liar
		want string
	}{
		"P-384":           {liar{good, newKey(t, elliptic.P384()).Public(), keys.ES256, sign}, "no key for"},
		"Ed25519":         {liar{good, ed, keys.ES256, sign}, "no key for"},
		"no public half":  {liar{good, nil, keys.ES256, sign}, "no key for"},
		"other algorithm": {liar{good, good.Public(), "ES384", sign}, "no key for"},
		"another's half":  {liar{good, newSigner(t).Public(), keys.ES256, sign}, "doesn't verify"},
		"no signature":    {liar{good, good.Public(), keys.ES256, func([]byte) ([]byte, error) { return nil, nil }}, "doesn't verify"},
		"an error":        {liar{good, good.Public(), keys.ES256, func([]byte) ([]byte, error) { return nil, io.ErrClosedPipe }}, io.ErrClosedPipe.Error()},
	} {
		if err := keys.SelfTest(c.bad); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if signer, err := keys.NewSigner(newKey(t, elliptic.P384()), keys.ES256); err == nil || signer != nil {
		t.Errorf("NewSigner took a P-384 key for ES256: %v", err)
	}
}

func TestJWKS(t *testing.T) {
	signers := []keys.Signer{newSigner(t), newSigner(t), newSigner(t), newSigner(t)}
	first, err := keys.JWKS(signers...)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(signers)
	second, err := keys.JWKS(signers...)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("the order of the signers shows: %v\n%s\n%s", err, first, second)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(first, &set); err != nil || len(set.Keys) != len(signers) {
		t.Fatalf("%d keys, %v", len(set.Keys), err)
	}
	for _, s := range signers {
		found := set.Key(s.KeyID())
		if len(found) != 1 {
			t.Fatalf("%d keys of id %s", len(found), s.KeyID())
		}
		k := found[0]
		if !k.IsPublic() || !k.Valid() || k.Algorithm != keys.ES256 || k.Use != "sig" || !s.Public().(*ecdsa.PublicKey).Equal(k.Key) {
			t.Errorf("key %s came back as %+v", s.KeyID(), k)
		}
	}
	if bytes.Contains(first, []byte(`"d"`)) {
		t.Error("a private value is in the JWKS")
	}
	if empty, err := keys.JWKS(); err != nil || string(empty) != `{"keys":[]}` {
		t.Errorf("no signers: %s, %v", empty, err)
	}
}

func TestNothingPrintsItsKey(t *testing.T) {
	const pin = "pin-Zq4vT8rN"
	private := newKey(t, elliptic.P256())
	signer, err := keys.NewSigner(private, keys.ES256)
	if err != nil {
		t.Fatal(err)
	}
	config := keys.SoftwareConfig{Dir: t.TempDir(), PIN: issuers.NewSecret(pin), Create: true}
	software, err := keys.OpenSoftware(config)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := software.MakeSealer(t.Context(), "seal")
	if err != nil {
		t.Fatal(err)
	}
	root, rootKey := newRoot(t)
	scalar, err := private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var secrets []string
	for _, secret := range [][]byte{[]byte(pin), scalar, rootKey} {
		bare := strings.Trim(fmt.Sprintf("%d", secret), "[]")
		secrets = append(secrets, string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), bare,
			strings.ReplaceAll(bare, " ", ", "), strings.Trim(fmt.Sprintf("%#v", secret)[len("[]byte"):], "{}"),
			base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret), new(big.Int).SetBytes(secret).String())
	}
	for name, v := range map[string]any{
		"signer": signer, "software": software, "software value": *software, "config": config, "sealer": sealer,
		"root": root, "root value": *root, "hasher": root.Hasher(keys.AuditMACs), "row sealer": root.RowSealer(), "row sealer value": *root.RowSealer(),
		"inside": struct {
			S keys.Signer
			R keys.Root
			F *keys.Software
		}{signer, *root, software},
		"hidden inside": struct {
			s keys.Signer
			r keys.Root
			f keys.Software
			w keys.RowSealer
		}{signer, *root, *software, *root.RowSealer()},
	} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		out.Write(encoded)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
		for _, secret := range secrets {
			if strings.Contains(out.String(), secret) {
				t.Errorf("%s prints its key: %s", name, out.String())
				break
			}
		}
	}
}
