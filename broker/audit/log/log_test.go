package log_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	auditlog "github.com/daypass/daypass/broker/audit/log"
)

const origin = "daypass-audit/0123456789ab"

// signer signs by a key in memory.
type signer struct{ crypto.Signer }

func (s signer) SignContext(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.Sign(rand.Reader, digest, opts)
}

func newSigner(t testing.TB) (signer, *auditlog.Key) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := auditlog.NewKey(origin, private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{private}, key
}

// TestTree: roots, nodes and proofs are those of RFC 6962, as tlog makes them.
func TestTree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(0, 300).Draw(r, "leaves")
		var stored []tlog.Hash
		hashes := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			var out []tlog.Hash
			for _, i := range indexes {
				out = append(out, stored[i])
			}
			return out, nil
		})
		var tree auditlog.Tree
		roots := []auditlog.Hash{tree.Root()}
		nodes := map[auditlog.Node]auditlog.Hash{}
		for i := range n {
			leaf := auditlog.LeafHash(fmt.Appendf(nil, "event %d", i))
			add, err := tlog.StoredHashesForRecordHash(int64(i), leaf, hashes)
			if err != nil {
				r.Fatal(err)
			}
			stored = append(stored, add...)
			nodes[auditlog.Node{Number: int64(i)}] = leaf
			tree.Append(leaf, func(n auditlog.Node) {
				nodes[auditlog.Node{Level: n.Level, Number: n.Number}] = n.Hash
				if want := stored[tlog.StoredHashIndex(n.Level, n.Number)]; n.Hash != want {
					r.Fatalf("node %d of level %d is another", n.Number, n.Level)
				}
			})
			want, err := tlog.TreeHash(int64(i)+1, hashes)
			if err != nil || tree.Root() != want {
				r.Fatalf("the root of %d is another: %v", i+1, err)
			}
			roots = append(roots, want)
		}
		reader := auditlog.NodeReader(func(wanted []auditlog.Node) ([]auditlog.Hash, error) {
			var out []auditlog.Hash
			for _, n := range wanted {
				out = append(out, nodes[n])
			}
			return out, nil
		})
		m := rapid.IntRange(0, n).Draw(r, "of these, before")
		older := &auditlog.Checkpoint{Origin: origin, Size: int64(m), Root: roots[m]}
		newer := &auditlog.Checkpoint{Origin: origin, Size: int64(n), Root: roots[n]}
		if err := auditlog.CheckGrown(older, newer, reader); err != nil {
			r.Fatal(err)
		}
		if m > 0 {
			older.Root[0] ^= 1
			if err := auditlog.CheckGrown(older, newer, reader); !errors.Is(err, auditlog.ErrForked) {
				r.Fatalf("another root before: %v", err)
			}
			older.Root[0] ^= 1
		}
		if err := auditlog.CheckGrown(newer, older, reader); n > m && !errors.Is(err, auditlog.ErrForked) {
			r.Fatalf("a log that shrank: %v", err)
		}
		// From its subtrees the tree goes on.
		again, err := auditlog.NewTree(int64(n), tree.Hashes())
		if err != nil {
			r.Fatal(err)
		}
		again.Append(roots[0], nil)
		tree.Append(roots[0], nil)
		if again.Root() != tree.Root() || again.Size() != tree.Size() || len(auditlog.Subtrees(int64(n)+1)) != len(tree.Hashes()) {
			r.Fatal("it goes on otherwise")
		}
	})
}

// TestCheckpoints: what is signed verifies, by our own keys and by those of sumdb/note.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	_, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, ecKey := newSigner(t)
	edKey, err := auditlog.NewKey(origin, edPrivate.Public())
	if err != nil {
		t.Fatal(err)
	}
	c := &auditlog.Checkpoint{Origin: origin, Size: 17, Root: auditlog.LeafHash([]byte("x"))}
	for _, test := range []struct {
		signer signer
		key    *auditlog.Key
	}{{ec, ecKey}, {signer{edPrivate}, edKey}} {
		text, err := c.Sign(t.Context(), test.signer)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(test.signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"# ours\n" + test.key.String() + "\n", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))} {
			keys, err := auditlog.ParseKeys([]byte(file))
			if err != nil || len(keys) != 1 {
				t.Fatal(err)
			}
			opened, by, err := auditlog.Open(text, keys)
			if err != nil || *opened != *c || by.ID() != test.key.ID() {
				t.Errorf("%+v by %v: %v", opened, by, err)
			}
		}
		if _, _, err := auditlog.Open(strings.Replace(text, "\n17\n", "\n18\n", 1), []*auditlog.Key{test.key}); !errors.Is(err, auditlog.ErrSignature) {
			t.Errorf("another size: %v", err)
		}
		other := edKey
		if test.key == edKey {
			other = ecKey
		}
		if _, _, err := auditlog.Open(text, []*auditlog.Key{other}); !errors.Is(err, auditlog.ErrUnknownKey) {
			t.Errorf("another key: %v", err)
		}
	}
	// The forms of C2SP signed-note: an Ed25519 key is note's own, an ECDSA key's id is of its SPKI.
	verifier, err := note.NewVerifier(edKey.String())
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.Sign(t.Context(), signer{edPrivate})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open([]byte(text), note.VerifierList(verifier)); err != nil || n.Text != c.Text() {
		t.Errorf("sumdb/note: %v", err)
	}
	der, err := x509.MarshalPKIXPublicKey(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(der); hex.EncodeToString(sum[:4]) != ecKey.ID() {
		t.Errorf("an ECDSA key has the id %s", ecKey.ID())
	}
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	_, key := newSigner(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(p384.Public())
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	id := "+" + key.ID() + "+"
	for name, text := range map[string]string{
		"nothing":           "",
		"comments":          "# daypass\n\n",
		"a copied id":       strings.Replace(key.String(), id, "+00000000+", 1),
		"a cut key":         key.String()[:len(key.String())-9],
		"another log":       "example.com/log" + strings.TrimPrefix(key.String(), origin),
		"P-384":             string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"a private key":     string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"an unknown type":   origin + id + "BwAAAA==",
		"Ed25519, 31 bytes": origin + id + "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		"too many":          strings.Repeat(key.String()+"\n", auditlog.MaxKeys+1),
	} {
		if keys, err := auditlog.ParseKeys([]byte(text)); err == nil {
			t.Errorf("%s gave %v", name, keys)
		}
	}
}

func TestCheckpointFiles(t *testing.T) {
	t.Parallel()
	s, _ := newSigner(t)
	var notes []string
	for size := range int64(3) {
		text, err := (&auditlog.Checkpoint{Origin: origin, Size: size + 1}).Sign(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		notes = append(notes, text)
	}
	for name, text := range map[string]string{
		"apart": strings.Join(notes, "\n"), "together": strings.Join(notes, ""), "ended": strings.Join(notes, "\n") + "\n",
		"cut off": strings.Join(notes, "\n") + "\n" + notes[0][:40], "cut in a signature": strings.Join(notes, "\n") + "\n" + notes[0][:len(notes[0])-7],
	} {
		if got, err := auditlog.ReadCheckpoints([]byte(text)); err != nil || strings.Join(got, "") != strings.Join(notes, "") {
			t.Errorf("%s: %d: %v", name, len(got), err)
		}
	}
	for name, text := range map[string]string{
		"nothing": "\n", "half of one": notes[0][:50], "another text": "hello\n", "a hole": notes[0] + notes[1][10:] + notes[2],
		"another log's": strings.ReplaceAll(notes[0], "daypass-audit", "sumdb"), "a size with a sign": strings.Replace(notes[0], "\n1\n", "\n+1\n", 1),
		"a short root": strings.Replace(notes[0], "AAAA=\n", "=\n", 1),
	} {
		if got, err := auditlog.ReadCheckpoints([]byte(text)); !errors.Is(err, auditlog.ErrNoCheckpoint) {
			t.Errorf("%s: %d: %v", name, len(got), err)
		}
	}
}

// FuzzCheckpoint: whatever is read as a checkpoint is one, and is written the same.
func FuzzCheckpoint(f *testing.F) {
	s, key := newSigner(f)
	text, err := (&auditlog.Checkpoint{Origin: origin, Size: 5}).Sign(context.Background(), s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text + "\n" + text[:30])
	f.Add(origin + "\n1\n\n\n— x AAAAAAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		notes, err := auditlog.ReadCheckpoints([]byte(text))
		if (err == nil) != (len(notes) > 0) {
			t.Fatal(len(notes), err)
		}
		for _, n := range notes {
			c, _, err := auditlog.Open(n, []*auditlog.Key{key})
			if c == nil || !strings.HasPrefix(n, c.Text()) || !strings.Contains(text, n) {
				t.Fatalf("%q became %+v: %v", n, c, err)
			}
		}
		if keys, err := auditlog.ParseKeys([]byte(text)); err == nil && len(keys) == 0 {
			t.Fatal("no keys, and no error")
		}
	})
}

// FuzzExport: a reader doesn't panic, and an export that verifies is the same when it
// is written again.
func FuzzExport(f *testing.F) {
	e := newExport(f)
	for range 3 {
		e.event("lse_1", true)
	}
	e.checkpoint()
	f.Add(e.text())
	f.Add([]byte(`{"format":"daypass-audit-export/1","origin":"` + origin + `","from":1,"subtrees":["` + strings.Repeat("00", 32) + `"]}` + "\n" + `{"end":1}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := auditlog.VerifyBytes(text, auditlog.Proof{Keys: []*auditlog.Key{e.key}})
		if err != nil {
			return
		}
		if report.Size < report.From || report.Signed > report.Size {
			t.Fatalf("%+v", report)
		}
		var again bytes.Buffer
		for r := auditlog.NewReader(bytes.NewReader(text)); ; {
			line, err := r.Next()
			if err != nil {
				break
			}
			encoded, err := line.Encode()
			if err != nil {
				t.Fatal(err)
			}
			again.Write(encoded)
		}
		if once, err := auditlog.VerifyBytes(again.Bytes(), auditlog.Proof{Keys: []*auditlog.Key{e.key}}); err != nil || *once != *report {
			t.Fatalf("%+v: %v", once, err)
		}
	})
}
