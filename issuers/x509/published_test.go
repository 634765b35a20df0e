package x509_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
	daypass "github.com/daypass/daypass/issuers/x509"
)

func TestListOfRevoked(t *testing.T) {
	for _, algorithm := range []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"} {
		p := newPKI(t, algorithm)
		issuer := p.open()
		var all []issuers.Lease
		var serials []*big.Int
		for range 5 {
			lease := p.lease("web")
			_, c := p.issue(issuer, issuers.IssueRequest{Lease: lease, Parameters: with})
			all, serials = append(all, lease), append(serials, c.SerialNumber)
		}
		known := p.leases(all...)
		for _, lease := range all[:4] {
			known.revoked[lease.ID] = p.now.Add(-time.Second)
		}
		list := p.crl(t, issuer, known)
		if err := list.CheckSignatureFrom(p.intermediate(nil)); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		if len(list.RevokedCertificateEntries) != 4 || !slices.IsSortedFunc(list.RevokedCertificateEntries, func(a, b x509.RevocationListEntry) int { return a.SerialNumber.Cmp(b.SerialNumber) }) {
			t.Errorf("%s: entries %v", algorithm, list.RevokedCertificateEntries)
		}
		for n, serial := range serials {
			listed := slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
				return e.SerialNumber.Cmp(serial) == 0 && e.RevocationTime.Equal(p.now.Add(-time.Second))
			})
			if listed != (n < 4) {
				t.Errorf("%s: certificate %d is listed: %v", algorithm, n, listed)
			}
		}
		if list.ThisUpdate.After(p.now) || !list.NextUpdate.Equal(p.now.Add(time.Hour)) {
			t.Errorf("%s: from %s to %s, and it is %s", algorithm, list.ThisUpdate, list.NextUpdate, p.now)
		}
		// Numbers rise, whatever the clock does.
		known.now = known.now.Add(-time.Hour)
		if later := p.crl(t, issuer, known); later.Number.Cmp(list.Number) <= 0 {
			t.Errorf("%s: number %d after %d", algorithm, later.Number, list.Number)
		}
		known.err = errors.New("the database is away")
		if _, err := issuer.Publish(t.Context(), "crl.der", known); !errors.Is(err, issuers.ErrUnavailable) {
			t.Errorf("%s: %v", algorithm, err)
		}
		if _, err := issuer.Publish(t.Context(), "crl.txt", known); !errors.Is(err, issuers.ErrNoDocument) {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

func (p *pki) crl(t *testing.T, issuer *daypass.Issuer, known *leases) *x509.RevocationList {
	t.Helper()
	document, err := issuer.Publish(t.Context(), "crl.pem", known)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(document.Body)
	if block == nil || block.Type != "X509 CRL" || len(rest) > 0 {
		t.Fatalf("the document is %q", document.Body)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// question is an OCSP request about a certificate, by a hash.
func (p *pki) question(t testing.TB, serial *big.Int, hash crypto.Hash) []byte {
	t.Helper()
	der, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial}, p.intermediate(nil), &ocsp.RequestOptions{Hash: hash})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (p *pki) answer(t *testing.T, issuer *daypass.Issuer, question []byte, known *leases) (*issuers.Document, *ocsp.Response) {
	t.Helper()
	document, err := issuer.Respond(t.Context(), question, known)
	if err != nil {
		t.Fatal(err)
	}
	response, err := ocsp.ParseResponse(document.Body, p.intermediate(nil))
	if err != nil {
		t.Fatal(err)
	}
	return document, response
}

func TestAnswers(t *testing.T) {
	p := newPKI(t, "ES256")
	issuer := p.open()
	lease := p.lease("web")
	_, c := p.issue(issuer, issuers.IssueRequest{Lease: lease, Parameters: with})
	known := p.leases(lease)
	signed := 0
	p.signer.OnSign = func(context.Context) error { signed++; return nil }
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		for range 3 {
			document, response := p.answer(t, issuer, p.question(t, c.SerialNumber, hash), known)
			if response.Status != ocsp.Good || response.SerialNumber.Cmp(c.SerialNumber) != 0 || response.IssuerHash != hash || document.MaxAge != time.Minute {
				t.Errorf("%+v, kept for %s", response, document.MaxAge)
			}
			if response.ThisUpdate.After(p.now) || !response.NextUpdate.Equal(p.now.Add(5*time.Minute)) || len(response.RawResponderName) > 0 || len(response.ResponderKeyHash) != 20 {
				t.Errorf("%+v", response)
			}
		}
	}
	if signed != 2 || known.asked != 2 {
		t.Errorf("six questions made %d signatures and asked for the lease %d times, want 2", signed, known.asked)
	}
	// What was revoked is told within the 10 seconds that answers are kept.
	known.revoked[lease.ID] = p.now.Add(time.Second)
	known.now = p.now.Add(9 * time.Second)
	if _, response := p.answer(t, issuer, p.question(t, c.SerialNumber, crypto.SHA1), known); response.Status != ocsp.Good {
		t.Errorf("after 9 s: %d, an answer is kept for 10", response.Status)
	}
	known.now = p.now.Add(10 * time.Second)
	if _, response := p.answer(t, issuer, p.question(t, c.SerialNumber, crypto.SHA1), known); response.Status != ocsp.Revoked || !response.RevokedAt.Equal(p.now.Add(time.Second)) {
		t.Errorf("after 10 s: %d at %s", response.Status, response.RevokedAt)
	}
	// One that ran out long ago is nobody's business.
	known.now = lease.ExpiresAt.Add(time.Hour + time.Second)
	p.refused(t, issuer, p.question(t, c.SerialNumber, crypto.SHA1), known, ocsp.UnauthorizedErrorResponse)
	known.now, known.err = p.now.Add(time.Minute), errors.New("the database is away")
	if _, err := issuer.Respond(t.Context(), p.question(t, c.SerialNumber, crypto.SHA1), known); !errors.Is(err, issuers.ErrUnavailable) {
		t.Error(err)
	}
	known.err = nil
	p.signer.OnSign = func(context.Context) error { return errors.New("the token is gone") }
	if _, err := issuer.Respond(t.Context(), p.question(t, c.SerialNumber, crypto.SHA1), known); !errors.Is(err, issuers.ErrUnavailable) {
		t.Error(err)
	}
}

func (p *pki) refused(t *testing.T, issuer *daypass.Issuer, question []byte, known *leases, want []byte) {
	t.Helper()
	document, err := issuer.Respond(t.Context(), question, known)
	if err != nil || !bytes.Equal(document.Body, want) || document.MaxAge != 0 {
		t.Errorf("answered %+v, %v, want %x", document, err, want)
	}
}

// TestGuesses: what isn't about a certificate of ours costs no signature.
func TestGuesses(t *testing.T) {
	p := newPKI(t, "ES256")
	other := newPKI(t, "ES256")
	issuer := p.open()
	lease := p.lease("web")
	_, c := p.issue(issuer, issuers.IssueRequest{Lease: lease, Parameters: with})
	known := p.leases(lease)
	p.signer.OnSign = func(context.Context) error { t.Error("a guess made the key sign"); return nil }
	good := p.question(t, c.SerialNumber, crypto.SHA1)
	for name, question := range map[string][]byte{
		"a serial that wasn't given": p.question(t, new(big.Int).Add(c.SerialNumber, big.NewInt(1)), crypto.SHA1),
		"zero":                       p.question(t, new(big.Int), crypto.SHA1),
		"below zero":                 p.question(t, new(big.Int).Neg(c.SerialNumber), crypto.SHA1),
		"beyond a lease's id":        p.question(t, new(big.Int).Lsh(c.SerialNumber, 8), crypto.SHA1),
		"of another authority":       other.question(t, c.SerialNumber, crypto.SHA1),
		"by another hash":            p.question(t, c.SerialNumber, crypto.SHA384),
	} {
		t.Run(name, func(t *testing.T) { p.refused(t, issuer, question, known, ocsp.UnauthorizedErrorResponse) })
	}
	foreign := p.leases(lease)
	foreign.keyID = "another"
	p.refused(t, issuer, good, foreign, ocsp.UnauthorizedErrorResponse)
	for name, question := range map[string][]byte{
		"nothing": nil, "garbage": []byte("hello"), "cut off": good[:len(good)-1], "bytes behind it": append(slices.Clip(good), 0), "long": make([]byte, 5<<10),
	} {
		t.Run(name, func(t *testing.T) { p.refused(t, issuer, question, known, ocsp.MalformedRequestErrorResponse) })
	}
}

// TestManyQuestionsAtOnce: an answer is signed once, and those that find no room
// are told to try later.
func TestManyQuestionsAtOnce(t *testing.T) {
	p := newPKI(t, "ES256")
	issuer := p.open()
	lease := p.lease("web")
	_, c := p.issue(issuer, issuers.IssueRequest{Lease: lease, Parameters: with})
	known := p.leases(lease)
	question := p.question(t, c.SerialNumber, crypto.SHA1)
	var signed int
	began, goOn := make(chan struct{}), make(chan struct{})
	p.signer.OnSign = func(context.Context) error { signed++; close(began); <-goOn; return nil }
	var running sync.WaitGroup
	ask := func() {
		document, err := issuer.Respond(context.Background(), question, known)
		if err != nil || (!bytes.Equal(document.Body, ocsp.TryLaterErrorResponse) && len(document.Body) < 100) {
			t.Errorf("%+v, %v", document, err)
		}
	}
	running.Go(ask)
	<-began
	later := 0
	for range 20 {
		running.Go(ask)
	}
	for later == 0 {
		document, err := issuer.Respond(t.Context(), p.question(t, new(big.Int).Add(c.SerialNumber, big.NewInt(1)), crypto.SHA1), known)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(document.Body, ocsp.TryLaterErrorResponse) {
			later++
		}
	}
	close(goOn)
	running.Wait()
	if signed != 1 {
		t.Errorf("signed %d times", signed)
	}
}

// TestSerials: each lease's certificate leads back to it.
func TestSerials(t *testing.T) {
	p := newPKI(t, "EdDSA")
	issuer := p.open()
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")
		lease := p.lease("web")
		lease.ID = "lse_" + ulidOf(raw)
		res, err := issuer.Issue(context.Background(), &issuers.IssueRequest{Lease: lease, Parameters: with})
		if new(big.Int).SetBytes(raw).Sign() == 0 {
			if err == nil {
				t.Fatal("a serial of zero")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(res.Values[0].Value.Reveal()))
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || c.SerialNumber.Sign() <= 0 || len(c.SerialNumber.Bytes()) > 20 {
			t.Fatalf("serial %x, %v", c.SerialNumber, err)
		}
		document, err := issuer.Respond(context.Background(), p.question(p.t, c.SerialNumber, crypto.SHA256), p.leases(lease))
		if err != nil {
			t.Fatal(err)
		}
		if len(document.Body) < 100 {
			t.Fatalf("the responder doesn't know serial %x of lease %s", c.SerialNumber, lease.ID)
		}
	})
}

func FuzzOCSP(f *testing.F) {
	p := newPKI(f, "EdDSA")
	issuer := p.open()
	lease := p.lease("web")
	_, c := p.issue(issuer, issuers.IssueRequest{Lease: lease, Parameters: with})
	known := p.leases(lease)
	good := p.question(f, c.SerialNumber, crypto.SHA1)
	f.Add(good)
	f.Add(p.question(f, c.SerialNumber, crypto.SHA256))
	f.Add(p.question(f, big.NewInt(1), crypto.SHA1))
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, question []byte) {
		document, err := issuer.Respond(t.Context(), question, known)
		if err != nil {
			t.Fatal(err)
		}
		signed := len(document.Body) > 100
		if signed && !bytes.Contains(question, c.SerialNumber.Bytes()) {
			t.Fatalf("signed an answer to %x", question)
		}
		if !signed && (len(document.Body) != 5 || document.MaxAge != 0) {
			t.Fatalf("answered %x", document.Body)
		}
	})
}
