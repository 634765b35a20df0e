package pkcs11

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

const (
	testLabel = "daypass-test"
	testPIN   = "pin-Zq4vT8rN"
	testSOPIN = "sopin-Lk2wX9bM"

	// childVariable makes the test binary a second process that tells the id of
	// the key of this label.
	childVariable = "DAYPASS_TEST_KEY_OF_CHILD"
	// makerVariable has it make the key first.
	makerVariable = "DAYPASS_TEST_CHILD_MAKES"
)

// testModule and testDir are set once by TestMain: SoftHSM has one configuration
// per process, so the tests share one folder.
var testModule, testDir string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pkcs11 tests:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	var ok bool
	if testModule, ok = FindSoftHSM(); !ok {
		return 1, errors.New("SoftHSM is missing: install the package softhsm2 (Debian, Ubuntu, Homebrew: softhsm), or set DAYPASS_SOFTHSM_MODULE")
	}
	if label := os.Getenv(childVariable); label != "" {
		return 0, child(ctx, label)
	}
	temp, err := os.MkdirTemp("", "daypass-softhsm-*")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	testDir = filepath.Join(temp, "keys")
	if err := InitSoftHSM(ctx, softHSM(testLabel)); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// unique makes a label that no test and no earlier run of this one has used.
func unique(label string) string { return label + "-" + rand.Text()[:8] }

func softHSM(label string) SoftHSMConfig {
	return SoftHSMConfig{
		Dir: testDir, Module: testModule, TokenLabel: label,
		SOPIN: issuers.NewSecret(testSOPIN), PIN: issuers.NewSecret(testPIN),
	}
}

func testConfig() Config {
	return Config{Module: testModule, TokenLabel: testLabel, PIN: issuers.NewSecret(testPIN)}
}

func openTest(t testing.TB, config Config) *Token {
	t.Helper()
	token, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

// getSigner opens a P-256 key, which it makes where there is none.
func getSigner(ctx context.Context, token *Token, label string) (keys.Signer, error) {
	return getPair(ctx, token, keys.Pair{Label: label})
}

func getPair(ctx context.Context, token *Token, pair keys.Pair) (keys.Signer, error) {
	s, err := token.OpenSigner(ctx, pair)
	if errors.Is(err, keys.ErrNoKey) {
		s, err = token.MakeSigner(ctx, pair)
	}
	if errors.Is(err, keys.ErrKeyExists) {
		return token.OpenSigner(ctx, pair)
	}
	return s, err
}

// getSealer is getSigner for sealing keys.
func getSealer(ctx context.Context, token *Token, label string) (keys.Sealer, error) {
	s, err := token.OpenSealer(ctx, label)
	if errors.Is(err, keys.ErrNoKey) {
		s, err = token.MakeSealer(ctx, label)
	}
	if errors.Is(err, keys.ErrKeyExists) {
		return token.OpenSealer(ctx, label)
	}
	return s, err
}

// child opens what another process made.
func child(ctx context.Context, label string) (err error) {
	if err := UseSoftHSM(os.Getenv("DAYPASS_TEST_DIR")); err != nil {
		return err
	}
	token, err := Open(ctx, testConfig())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	if os.Getenv(makerVariable) != "" {
		// All makers begin when their input ends.
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
		signer, err := getSigner(ctx, token, label)
		for tries := 0; errors.Is(err, ErrNoToken) && tries < 5; tries++ {
			// SoftHSM may show none while another process rewrites its file.
			awaitRest(token.module)
			signer, err = getSigner(ctx, token, label)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(os.Stdout, signer.KeyID())
		return err
	}
	signer, err := token.OpenSigner(ctx, keys.Pair{Label: label})
	if err != nil {
		return err
	}
	sealer, err := token.OpenSealer(ctx, label)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(os.Stdout, "%s %s\n", signer.KeyID(), sealer.KeyID())
	return err
}
