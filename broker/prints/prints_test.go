package prints_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/prints"
	"github.com/daypass/daypass/issuers"
)

func newPrinter(t testing.TB) *prints.Printer {
	t.Helper()
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	return prints.New(root)
}

func secret(value string) *issuers.Value {
	return &issuers.Value{Name: "token", Value: issuers.NewSecret(value), Sensitive: true, RandomBits: 128}
}

func random(n int) []byte {
	data := make([]byte, n)
	rand.Read(data) // never fails
	return data
}

func jwt() string {
	return "eyJhbGciOiJFUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://daypass.example.com","sub":"daypass:main/p/g"}`)) + "." + base64.RawURLEncoding.EncodeToString(random(64))
}

// TestNothingInTheRow: what is kept of a value holds no eight bytes of it, in whatever
// writing, and opens under no other key.
func TestNothingInTheRow(t *testing.T) {
	t.Parallel()
	p, stranger := newPrinter(t), newPrinter(t)
	rapid.Check(t, func(t *rapid.T) {
		value := base64.RawURLEncoding.EncodeToString(rapid.SliceOfN(rapid.Byte(), 24, 600).Draw(t, "value"))
		kept, ok := p.Of(secret(value))
		if !ok {
			t.Fatal("nothing is kept of a random value")
		}
		row := string(kept.Sum[:]) + string(kept.Anchor)
		for at := 0; at+prints.Window <= len(value); at++ {
			window := value[at : at+prints.Window]
			if strings.Contains(row, window) || strings.Contains(row, hex.EncodeToString([]byte(window))) {
				t.Fatalf("bytes %d to %d of the value stand in its row", at, at+prints.Window)
			}
		}
		if kept.Anchor == nil {
			return // no eight bytes of it are fit
		}
		open, ok := p.Open(&kept.Sum, kept.Anchor)
		if !ok || open.Length != len(value) || value[open.Offset:open.Offset+prints.Window] != string(open.Window[:]) {
			t.Fatalf("the anchor opens to %+v", open)
		}
		other, _ := stranger.Open(&kept.Sum, kept.Anchor)
		if other.Window == open.Window || stranger.Sum([]byte(value)) == kept.Sum {
			t.Fatal("another root opens it")
		}
		again, _ := p.Of(secret(value))
		if !bytes.Equal(again.Anchor, kept.Anchor) || again.Sum != kept.Sum {
			t.Fatal("a value that is given out twice has two anchors: more than eight bytes of it")
		}
	})
}

func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	p := newPrinter(t)
	guessed := secret("hunter2hunter2hunter2")
	guessed.RandomBits = 127
	visible := secret(string(random(40)))
	visible.Sensitive = false
	for name, v := range map[string]*issuers.Value{"a value that can be guessed": guessed, "a name": visible} {
		if _, kept := p.Of(v); kept {
			t.Errorf("something is kept of %s", name)
		}
	}
	own := issuers.Generate(issuers.Password).Reveal()
	for name, value := range map[string]string{
		"the broker's own shape": own, "a URL that holds it": "postgres://dpuser:" + own + "@db.example/x", "one letter": strings.Repeat("x", 64),
		"a long value": base64.StdEncoding.EncodeToString(random(prints.MaxValue)), "a short one": "abcdefg",
	} {
		if kept, ok := p.Of(secret(value)); !ok || kept.Anchor != nil {
			t.Errorf("%s has an anchor, or no fingerprint", name)
		}
	}
}

// TestRandomPart: anchors lie where a value is random, so that other values of the
// kind don't hold them too.
func TestRandomPart(t *testing.T) {
	t.Parallel()
	p := newPrinter(t)
	open := func(value string) prints.Anchor {
		t.Helper()
		kept, _ := p.Of(secret(value))
		a, ok := p.Open(&kept.Sum, kept.Anchor)
		if !ok {
			t.Fatal("it has no anchor")
		}
		return a
	}
	block := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: random(120)}))
	places := map[int]bool{}
	for range 50 {
		token := jwt()
		a := open(token)
		if a.Offset <= strings.LastIndexByte(token, '.') || a.Spaced {
			t.Errorf("the anchor of a JWT: %+v", a)
		}
		places[a.Offset-strings.LastIndexByte(token, '.')] = true
		if a := open("sk_live_" + base64.RawURLEncoding.EncodeToString(random(30))); a.Offset < 12 {
			t.Errorf("the anchor of a value with a prefix: %+v", a)
		}
		if a := open(block); !a.Spaced || strings.Contains(string(a.Window[:]), "\n") || strings.Contains(string(a.Window[:]), "---") || a.Offset < len("-----BEGIN PRIVATE KEY-----\n")+30 {
			t.Errorf("the anchor of a key: %+v", a)
		}
	}
	if len(places) < 10 {
		t.Errorf("50 anchors stand at %d places", len(places))
	}
}

// FuzzOpen: whatever stands in the column, an anchor lies within its value.
func FuzzOpen(f *testing.F) {
	p := newPrinter(f)
	kept, _ := p.Of(secret(jwt()))
	f.Add(kept.Anchor)
	f.Add([]byte{1, 0, 0, 0, 1, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if a, ok := p.Open(&kept.Sum, sealed); ok && (a.Offset < 0 || a.Length > prints.MaxValue || a.Offset+prints.Window > a.Length) {
			t.Errorf("%+v", a)
		}
	})
}
