package x509

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Request makes the PKCS#10 request of an authority's key, in PEM, for the
// authority above it. It asks to be an authority with none below it, and to sign
// certificates and lists.
func Request(ctx context.Context, signer issuers.Signer, subject pkix.Name) ([]byte, error) {
	how, err := signingOf(signer)
	if err != nil {
		return nil, err
	}
	extensions, err := authorityExtensions(signer)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: subject, SignatureAlgorithm: how.certificate, ExtraExtensions: extensions,
	}, issuers.BindSigner(ctx, signer))
	if err != nil {
		return nil, fmt.Errorf("signing the request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: der}), nil
}

// authorityExtensions are CA:TRUE with path length 0, keyCertSign and cRLSign, and
// the key's identifier.
func authorityExtensions(signer issuers.Signer) ([]pkix.Extension, error) {
	id, err := keyIdentifier(signer.Public())
	if err != nil {
		return nil, err
	}
	identifier, err := asn1.Marshal(id)
	if err != nil {
		return nil, fmt.Errorf("encoding extensions: %w", err)
	}
	constraints, err := asn1.Marshal(struct {
		CA     bool
		MaxLen int
	}{CA: true})
	if err != nil {
		return nil, fmt.Errorf("encoding extensions: %w", err)
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}) // bits 5 and 6 (RFC 5280, section 4.2.1.3)
	if err != nil {
		return nil, fmt.Errorf("encoding extensions: %w", err)
	}
	return []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 14}, Value: identifier},
	}, nil
}

// SelfSigned makes a root of an authority's key, in PEM: a chain for a trial.
func SelfSigned(ctx context.Context, signer issuers.Signer, subject pkix.Name, from, until time.Time) ([]byte, error) {
	how, err := signingOf(signer)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	id, err := keyIdentifier(signer.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: subject, SignatureAlgorithm: how.certificate, SubjectKeyId: id, AuthorityKeyId: id,
		NotBefore: from.Add(-backdate).UTC(), NotAfter: until.UTC(),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), issuers.BindSigner(ctx, signer))
	if err != nil {
		return nil, fmt.Errorf("signing the certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der}), nil
}

// ParseSubject reads a subject such as "CN=Example CI, O=Example": the attributes
// CN, O, OU, C, ST and L, with \, for a comma in a value.
func ParseSubject(text string) (pkix.Name, error) {
	var name pkix.Name
	const comma = "\x00"
	for part := range strings.SplitSeq(strings.ReplaceAll(text, `\,`, comma), ",") {
		key, value, ok := strings.Cut(strings.ReplaceAll(part, comma, ","), "=")
		value = strings.TrimSpace(value)
		if !ok || !isAttribute(value) {
			return name, fmt.Errorf("subject %q: write CN=NAME, O=NAME …, each 1 to %d printable bytes", text, maxAttribute)
		}
		switch strings.ToUpper(strings.TrimSpace(key)) {
		case "CN":
			if name.CommonName != "" {
				return name, errors.New("the subject has two CN")
			}
			name.CommonName = value
		case "O":
			name.Organization = append(name.Organization, value)
		case "OU":
			name.OrganizationalUnit = append(name.OrganizationalUnit, value)
		case "C":
			name.Country = append(name.Country, value)
		case "ST":
			name.Province = append(name.Province, value)
		case "L":
			name.Locality = append(name.Locality, value)
		default:
			return name, fmt.Errorf("subject: there is no attribute %q here: use CN, O, OU, C, ST, L", key)
		}
	}
	if name.CommonName == "" {
		return name, errors.New("the subject has no CN: it is the authority's name")
	}
	return name, nil
}
