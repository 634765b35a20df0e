package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

func TestSignVerifies(t *testing.T) {
	token := openTest(t, testConfig())
	signer, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	public := signer.Public().(*ecdsa.PublicKey)
	if id, err := keys.KeyID(public); err != nil || id != signer.KeyID() || signer.Algorithm() != keys.ES256 {
		t.Errorf("KeyID = %q, thumbprint %q (%v), algorithm %s", signer.KeyID(), id, err, signer.Algorithm())
	}
	// Enough for r and s with leading zeros and with the high bit set.
	for i := range 600 {
		digest := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if !ecdsa.VerifyASN1(public, digest[:], signature) {
			t.Fatalf("signature %x doesn't verify", signature)
		}
		digest[0]++
		if ecdsa.VerifyASN1(public, digest[:], signature) {
			t.Fatal("signature verifies for another digest")
		}
	}
	again, err := getSigner(t.Context(), token, "sign")
	if err != nil || again.KeyID() != signer.KeyID() {
		t.Errorf("opened again: %v, %v", again, err)
	}
	other, err := getSigner(t.Context(), token, "sign-other")
	if err != nil || other.KeyID() == signer.KeyID() {
		t.Errorf("another label: %v, %v", other, err)
	}
}

func TestSignRefusesOtherDigests(t *testing.T) {
	signer, err := getSigner(t.Context(), openTest(t, testConfig()), "sign")
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]struct {
		digest []byte
		opts   crypto.SignerOpts
	}{
		"short":   {make([]byte, 20), crypto.SHA256},
		"long":    {make([]byte, 48), crypto.SHA256},
		"SHA-384": {make([]byte, 48), crypto.SHA384},
		"no hash": {make([]byte, 32), crypto.Hash(0)},
		"nil":     {make([]byte, 32), nil},
	} {
		if signature, err := signer.Sign(rand.Reader, call.digest, call.opts); err == nil {
			t.Errorf("%s: signed %x", name, signature)
		}
	}
}

func TestSealRoundTripAndTamper(t *testing.T) {
	token := openTest(t, testConfig())
	sealer, err := getSealer(t.Context(), token, "seal")
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 15, 16, 17, 32, 4096} {
		for _, place := range [][]byte{nil, []byte("place")} {
			plaintext := make([]byte, size)
			_, _ = rand.Read(plaintext)
			sealed, err := sealer.Seal(t.Context(), plaintext, place)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			opened, err := sealer.Open(t.Context(), sealed, place)
			if err != nil || !bytes.Equal(opened, plaintext) {
				t.Fatalf("%d bytes, place %q: %x, %v", size, place, opened, err)
			}
			again, err := sealer.Seal(t.Context(), plaintext, place)
			if err != nil || bytes.Equal(again, sealed) {
				t.Fatalf("sealing twice gives the same: %v", err)
			}
		}
	}

	const secret = "32 bytes of plaintext, or nearly"
	sealed, err := sealer.Seal(t.Context(), []byte(secret), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte(secret)) {
		t.Fatal("sealed value holds its plaintext")
	}
	refuse := func(what string, sealed []byte, place string) {
		t.Helper()
		opened, err := sealer.Open(t.Context(), sealed, []byte(place))
		if !errors.Is(err, keys.ErrOpen) || opened != nil {
			t.Errorf("%s: opened %q, %v", what, opened, err)
		}
	}
	for i := range sealed {
		for _, flip := range []byte{0x01, 0x80} {
			tampered := bytes.Clone(sealed)
			tampered[i] ^= flip
			refuse(fmt.Sprintf("byte %d", i), tampered, "here")
		}
		refuse(fmt.Sprintf("first %d bytes", i), sealed[:i], "here")
	}
	refuse("one byte more", append(bytes.Clone(sealed), 0), "here")
	refuse("another place", sealed, "there")
	refuse("no place", sealed, "")

	other, err := getSealer(t.Context(), token, "seal-other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(t.Context(), sealed, []byte("here")); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("another key: %v", err)
	}
	if other.KeyID() == sealer.KeyID() || len(sealer.KeyID()) != 12 {
		t.Errorf("key ids %q and %q", sealer.KeyID(), other.KeyID())
	}
	again, err := getSealer(t.Context(), token, "seal")
	if err != nil || again.KeyID() != sealer.KeyID() {
		t.Errorf("opened again: %v, %v", again.KeyID(), err)
	}
}

func TestRootWrapsInTheToken(t *testing.T) {
	sealer, err := getSealer(t.Context(), openTest(t, testConfig()), "seal")
	if err != nil {
		t.Fatal(err)
	}
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := root.Wrap(t.Context(), sealer, "one")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := keys.OpenRoot(t.Context(), sealer, "one", wrapped)
	if err != nil || opened.Hasher(keys.AuditMACs).KeyID() != root.Hasher(keys.AuditMACs).KeyID() {
		t.Errorf("opened another root: %v", err)
	}
	if _, err := keys.OpenRoot(t.Context(), sealer, "two", wrapped); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("wrong installation: %v", err)
	}
}

// raw gives a session of the pool to look into the token with.
func raw(t *testing.T, token *Token, look func(ctx *p11.Ctx, s *session)) {
	t.Helper()
	_, err := write(t.Context(), token, func(s *session) (struct{}, error) { look(token.module.ctx, s); return struct{}{}, nil })
	if err != nil {
		t.Fatal(err)
	}
}

// rawPooled is raw with a session that stays in the pool.
func rawPooled(t *testing.T, token *Token, look func(ctx *p11.Ctx, s *session)) {
	t.Helper()
	_, err := use(t.Context(), token, func(s *session) (struct{}, error) { look(token.module.ctx, s); return struct{}{}, nil })
	if err != nil {
		t.Fatal(err)
	}
}

// slotOf is where the token is.
func slotOf(token *Token) uint {
	slot, _ := token.place.get()
	return slot
}

func TestConcurrentUse(t *testing.T) {
	token := openTest(t, testConfig())
	signer, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := getSealer(t.Context(), token, "seal")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			for j := range 10 {
				checkUse(t, signer, sealer, byte(i), byte(j))
			}
		})
	}
	group.Wait()
}

// checkUse signs and seals once, and checks both.
func checkUse(t *testing.T, signer keys.Signer, sealer keys.Sealer, what ...byte) {
	digest := sha256.Sum256(what)
	signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("signing %x: %x, %v", what, signature, err)
	}
	sealed, err := sealer.Seal(t.Context(), what, digest[:])
	if err != nil {
		t.Errorf("sealing %x: %v", what, err)
		return
	}
	if opened, err := sealer.Open(t.Context(), sealed, digest[:]); err != nil || !bytes.Equal(opened, what) {
		t.Errorf("opening %x: %x, %v", what, opened, err)
	}
}

func TestConcurrentCreateMakesOneKey(t *testing.T) {
	// Several Tokens, as signing, sealing and audit keys may each open theirs.
	label := unique("made-once")
	ids := make([]string, 8)
	var group sync.WaitGroup
	for i := range ids {
		token := openTest(t, testConfig())
		group.Go(func() {
			signer, err := getSigner(t.Context(), token, label)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = signer.KeyID()
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("several keys: %q", ids)
		}
	}
}

func TestSessionsDieBehindOurBack(t *testing.T) {
	token := openTest(t, testConfig())
	key, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := getSealer(t.Context(), token, "seal")
	if err != nil {
		t.Fatal(err)
	}
	for name, kill := range map[string]func(s *session) error{
		"all sessions closed": func(*session) error { return token.module.ctx.CloseAllSessions(slotOf(token)) },
		"logged out":          func(s *session) error { return token.module.ctx.Logout(s.handle) },
		"session closed":      func(s *session) error { return token.module.ctx.CloseSession(s.handle) },
		"operation left over": func(s *session) error {
			h, err := token.handle(s, key.(*signer).private)
			if err != nil {
				return err
			}
			return token.module.ctx.SignInit(s.handle, key.(*signer).how.sign, h)
		},
	} {
		for range 3 {
			rawPooled(t, token, func(_ *p11.Ctx, s *session) {
				if err := kill(s); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() { checkUse(t, key, sealer, byte(i)) })
			}
			group.Wait()
		}
	}
}

func TestCloseEndsUse(t *testing.T) {
	token, err := Open(t.Context(), testConfig())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	other := openTest(t, testConfig())
	stays, err := getSigner(t.Context(), other, "sign")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(token.Close(), token.Close()); err != nil {
		t.Fatal(err)
	}
	if err := keys.SelfTest(signer); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := keys.SelfTest(stays); err != nil {
		t.Errorf("closing one token ended another: %v", err)
	}
}

func TestAnotherProcessFindsTheSameKeys(t *testing.T) {
	token := openTest(t, testConfig())
	signer, err := getSigner(t.Context(), token, "both")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := getSealer(t.Context(), token, "both")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self)
	command.Env = append(os.Environ(), childVariable+"=both", "DAYPASS_TEST_DIR="+testDir, confVariable+"=/nonexistent")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	if got, want := strings.TrimSpace(string(out)), signer.KeyID()+" "+sealer.KeyID(); got != want {
		t.Errorf("the other process found %q, want %q", got, want)
	}
}

func TestNothingPrintsThePIN(t *testing.T) {
	config := testConfig()
	token := openTest(t, config)
	signer, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := getSealer(t.Context(), token, "seal")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{config, &config, softHSM("x"), token, signer, sealer, struct{ T *Token }{token}} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%T: %v", v, err)
		}
		out.Write(encoded)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
		for _, pin := range []string{testPIN, testSOPIN, fmt.Sprintf("%x", testPIN), fmt.Sprintf("%d", []byte(testPIN))} {
			if strings.Contains(out.String(), pin) {
				t.Errorf("%T prints its PIN: %s", v, out.String())
			}
		}
	}
	if got := fmt.Sprintf("%+v %+v", token, signer); got != shown+" "+shown {
		t.Errorf("prints as %s", got)
	}
}

func TestWaitForASessionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := newToken(Config{TokenLabel: "busy", MaxSessions: 1}, &module{})
		<-token.rights
		start := time.Now()
		_, err := (&signer{token: token, algorithm: keys.ES256}).Sign(nil, make([]byte, 32), crypto.SHA256)
		if !errors.Is(err, ErrBusy) || time.Since(start) != answerWait {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := (&sealer{token: token}).Seal(ctx, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
	})
}
