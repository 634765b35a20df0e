package pkcs11

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// maker starts a process that makes the key of that label once its input ends.
func maker(t *testing.T, label string) (begin io.Closer, end func() string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self)
	command.Env = append(os.Environ(), childVariable+"="+label, makerVariable+"=1", "DAYPASS_TEST_DIR="+testDir)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return stdin, func() string {
		if err := command.Wait(); err != nil {
			t.Errorf("%v: %s", err, stderr.Bytes())
		}
		return strings.TrimSpace(stdout.String())
	}
}

// Processes know nothing of each other's locks.
func TestProcessesThatMakeOneKey(t *testing.T) {
	token := openTest(t, testConfig())
	for range 3 {
		label := unique("raced")
		var begin []io.Closer
		var end []func() string
		for range 3 {
			b, e := maker(t, label)
			begin, end = append(begin, b), append(end, e)
		}
		for _, b := range begin {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		var ids []string
		for _, e := range end {
			ids = append(ids, e())
		}
		s, err := token.OpenSigner(t.Context(), keys.Pair{Label: label})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id != s.KeyID() {
				t.Errorf("the processes have keys %q, the token has %s", ids, s.KeyID())
			}
		}
	}
}

// The ways in which two makers can meet.
func TestRivalsOfOneLabel(t *testing.T) {
	how, err := howTo(keys.ES256)
	if err != nil {
		t.Fatal(err)
	}
	const low, high = "\x00 rival", "\xff rival"
	for name, c := range map[string]struct {
		rival  string
		leaves bool // the rival takes its own away, as it must when it sorts higher
		ours   bool // the key that is left
	}{
		"the rival sorts first":                    {low, false, false},
		"the rival sorts last and leaves":          {high, true, true},
		"the rival sorts last and had seen nobody": {high, false, false},
	} {
		token, f := openFaulty(t, nil)
		label := unique("rival")
		own, searches := token.WithID([]byte("own")), 0
		f.find = func() error {
			searches++
			rival := objectName{class: p11.CKO_PRIVATE_KEY, label: label, id: c.rival}
			if searches == 2 { // ours has just been made
				f.find = nil
				other := openTest(t, testConfig())
				if _, err := write(t.Context(), other, func(s *session) (struct{}, error) { return struct{}{}, other.generatePair(s, rival, how, 0) }); err != nil {
					t.Error(err)
				}
				if c.leaves {
					seen := 0
					f.find = func() error {
						if seen++; seen < 3 {
							return nil
						}
						f.find = nil
						return other.WithID([]byte(c.rival)).Destroy(t.Context(), label)
					}
				}
			}
			return nil
		}
		_, err := own.MakeSigner(t.Context(), keys.Pair{Label: label})
		f.find = nil
		if (err == nil) != c.ours {
			t.Errorf("%s: %v", name, err)
		}
		left := map[bool]string{true: "own", false: c.rival}[c.ours]
		opened, err := token.OpenSigner(t.Context(), keys.Pair{Label: label})
		if err != nil || opened.(*signer).private.id != left {
			t.Errorf("%s: %q is left, %v", name, opened.(*signer).private.id, err)
		}
		for _, class := range halves(p11.CKO_PRIVATE_KEY) {
			raw(t, token, func(_ *p11.Ctx, s *session) {
				if found, err := token.find(s, objectName{class: class, label: label}, 5); err != nil || len(found) != 1 {
					t.Errorf("%s: %d objects of class %d, %v", name, len(found), class, err)
				}
			})
		}
	}
}
