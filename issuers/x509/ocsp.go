package x509

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // what requests name an issuer by (RFC 6960, section 4.1.1; RFC 5019, section 2.1.1)
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/daypass/daypass/issuers"
)

const (
	ocspAge    = time.Minute     // how long an answer may be kept on its way
	ocspLife   = 5 * time.Minute // until its nextUpdate
	ocspFresh  = 10 * time.Second
	ocspAfter  = time.Hour // after its end nobody is told of a certificate any more
	maxRequest = 4 << 10
)

// The answers that say nothing about a certificate (RFC 6960, section 4.2.1).
// They aren't signed: a stranger's guess costs no signature (RFC 5019, section 2.2.3).
const (
	ocspSuccessful   = 0
	ocspMalformed    = 1
	ocspTryLater     = 3
	ocspUnauthorized = 6
)

type ocspRequest struct {
	TBS struct {
		Version       int           `asn1:"explicit,tag:0,default:0,optional"`
		RequestorName asn1.RawValue `asn1:"explicit,tag:1,optional"`
		List          []struct {
			CertID     certID
			Extensions []pkix.Extension `asn1:"explicit,tag:0,optional"`
		}
		Extensions []pkix.Extension `asn1:"explicit,tag:2,optional"`
	}
	Signature asn1.RawValue `asn1:"explicit,tag:0,optional"`
}

// certID names a certificate by hashes of its issuer's name and key, and its serial.
type certID struct {
	Raw       asn1.RawContent
	Hash      pkix.AlgorithmIdentifier
	NameHash  []byte
	KeyHash   []byte
	SerialNum *big.Int
}

type ocspResponse struct {
	Status asn1.Enumerated
	Bytes  struct {
		Type     asn1.ObjectIdentifier
		Response []byte
	} `asn1:"explicit,tag:0,optional"`
}

type basicResponse struct {
	TBS       asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

type responseData struct {
	Responder  asn1.RawValue // [2] the SHA-1 of the responder's key
	ProducedAt time.Time     `asn1:"generalized"`
	Responses  []singleResponse
}

type singleResponse struct {
	CertID     asn1.RawValue
	Good       asn1.Flag   `asn1:"tag:0,optional"`
	Revoked    revokedInfo `asn1:"tag:1,optional"`
	ThisUpdate time.Time   `asn1:"generalized"`
	NextUpdate time.Time   `asn1:"generalized,explicit,tag:0"`
}

type revokedInfo struct {
	At time.Time `asn1:"generalized"`
}

// RequestType implements [issuers.Responder].
func (*Issuer) RequestType() string { return "application/ocsp-request" }

// ResponseType implements [issuers.Responder].
func (*Issuer) ResponseType() string { return "application/ocsp-response" }

// Respond implements [issuers.Responder]: OCSP by RFC 6960 in the profile of RFC
// 5019, one certificate at a time. A nonce is left aside: answers are kept for some
// seconds, so that strangers can't make the authority's key sign without end.
func (i *Issuer) Respond(ctx context.Context, request []byte, status issuers.Revocations) (*issuers.Document, error) {
	id, err := parseOCSP(request)
	if err != nil {
		return unsigned(ocspMalformed), nil
	}
	by := i.current()
	lease, known := leaseOf(id.SerialNum)
	if i.config.Signer == nil || !known || !by.named(id) {
		return unsigned(ocspUnauthorized), nil
	}
	if !i.answers.enter() {
		return unsigned(ocspTryLater), nil
	}
	defer i.answers.leave()
	now := status.Now()
	answer := i.answers.of(string(id.Raw))
	answer.mu.Lock()
	defer answer.mu.Unlock()
	if body := answer.body; body != nil && !now.Before(answer.made) && now.Sub(answer.made) < ocspFresh {
		return i.document(body, ocspAge), nil
	}
	s, err := status.Status(ctx, lease)
	switch {
	case errors.Is(err, issuers.ErrNoLease), err == nil && (s.KeyID != i.config.Signer.KeyID() || now.After(s.ExpiresAt.Add(ocspAfter))):
		i.answers.drop(string(id.Raw))
		return unsigned(ocspUnauthorized), nil
	case err != nil:
		return nil, fmt.Errorf("%w: asking for a certificate's lease: %w", issuers.ErrUnavailable, err)
	}
	body, err := i.signed(ctx, by, id, &s, now)
	if err != nil {
		return nil, fmt.Errorf("%w: signing an answer: %w", issuers.ErrUnavailable, err)
	}
	answer.body, answer.made = body, now
	return i.document(body, ocspAge), nil
}

func (i *Issuer) document(body []byte, age time.Duration) *issuers.Document {
	return &issuers.Document{Type: i.ResponseType(), Body: body, MaxAge: age}
}

// unsigned is an answer that holds a status and nothing else.
func unsigned(status byte) *issuers.Document {
	return (*Issuer)(nil).document([]byte{0x30, 3, asn1.TagEnum, 1, status}, 0)
}

// parseOCSP reads a request about one certificate.
func parseOCSP(der []byte) (*certID, error) {
	if len(der) > maxRequest {
		return nil, errors.New("too long")
	}
	var r ocspRequest
	rest, err := asn1.Unmarshal(der, &r)
	switch {
	case err != nil || len(rest) > 0:
		return nil, errors.New("not an OCSP request in DER")
	case r.TBS.Version != 0 || len(r.TBS.List) != 1 || len(r.Signature.FullBytes) > 0:
		return nil, errors.New("version 1, one certificate and no signature is what is answered")
	}
	one := r.TBS.List[0]
	for _, extension := range append(r.TBS.Extensions, one.Extensions...) {
		if extension.Critical {
			return nil, errors.New("a critical extension that isn't known")
		}
	}
	if p := one.CertID.Hash.Parameters.FullBytes; len(p) > 0 && !bytes.Equal(p, asn1.NullBytes) {
		return nil, errors.New("a hash with parameters")
	}
	return &one.CertID, nil
}

// named says whether a request is about this authority.
func (a *authority) named(id *certID) bool {
	bits, err := keyBits(a.chain[0].PublicKey)
	if err != nil {
		return false
	}
	name := a.chain[0].RawSubject
	switch {
	case id.Hash.Algorithm.Equal(oidSHA1()):
		n, k := sha1.Sum(name), sha1.Sum(bits) //nolint:gosec // as above
		return bytes.Equal(id.NameHash, n[:]) && bytes.Equal(id.KeyHash, k[:])
	case id.Hash.Algorithm.Equal(oidSHA256()):
		n, k := sha256.Sum256(name), sha256.Sum256(bits)
		return bytes.Equal(id.NameHash, n[:]) && bytes.Equal(id.KeyHash, k[:])
	}
	return false
}

// signed is an answer about a lease of ours.
func (i *Issuer) signed(ctx context.Context, by *authority, id *certID, s *issuers.Status, now time.Time) ([]byte, error) {
	bits, err := keyBits(by.chain[0].PublicKey)
	if err != nil {
		return nil, err
	}
	keyHash := sha1.Sum(bits) //nolint:gosec // RFC 6960, section 4.2.1: KeyHash is SHA-1
	responder, err := asn1.Marshal(keyHash[:])
	if err != nil {
		return nil, err
	}
	one := singleResponse{
		CertID: asn1.RawValue{FullBytes: id.Raw}, Good: asn1.Flag(s.RevokedAt.IsZero()),
		ThisUpdate: now.Add(-backdate).UTC().Truncate(time.Second), NextUpdate: now.Add(ocspLife).UTC().Truncate(time.Second),
	}
	if !one.Good {
		one.Revoked.At = s.RevokedAt.UTC().Truncate(time.Second)
	}
	tbs, err := asn1.Marshal(responseData{
		Responder:  asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, IsCompound: true, Bytes: responder},
		ProducedAt: now.UTC().Truncate(time.Second), Responses: []singleResponse{one},
	})
	if err != nil {
		return nil, err
	}
	signature, err := i.signing.sign(ctx, i.config.Signer, by.chain[0], tbs)
	if err != nil {
		return nil, err
	}
	basic, err := asn1.Marshal(basicResponse{
		TBS: asn1.RawValue{FullBytes: tbs}, Algorithm: i.signing.identifier, Signature: asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
	if err != nil {
		return nil, err
	}
	response := ocspResponse{Status: ocspSuccessful}
	response.Bytes.Type, response.Bytes.Response = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}, basic // id-pkix-ocsp-basic
	return asn1.Marshal(response)
}
