package x509

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/daypass/daypass/issuers"
)

const (
	blockRequest     = "CERTIFICATE REQUEST" // RFC 7468, section 7
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY" // PKCS#8
	maxCSR           = 16 << 10      // bytes
)

// subjectKey is the key that a certificate is for.
type subjectKey struct {
	public  crypto.PublicKey
	private string // PEM, where it was made here
	bits    int    // that nobody can guess of it
}

// subjectKey takes the key of a job's request, or makes one.
func (r *role) subjectKey(csr string, n *names) (*subjectKey, error) {
	if csr == "" {
		if r.CSR == CSRRequired {
			return nil, &issuers.SentError{Detail: "a CSR is needed: this role certifies keys that jobs have"}
		}
		return makeKey(r.MadeKey)
	}
	if r.CSR == CSRNever {
		return nil, &issuers.SentError{Detail: "this role takes no CSR"}
	}
	request, err := parseCSR(csr, r.AcceptedKeys)
	if err == nil {
		err = n.hold(request)
	}
	if err != nil {
		return nil, &issuers.SentError{Detail: "the CSR is refused: " + err.Error()}
	}
	return &subjectKey{public: request.PublicKey}, nil
}

// parseCSR reads one request in PEM, and nothing besides, and checks that who made
// it has the private key.
func parseCSR(text string, accepted []string) (*x509.CertificateRequest, error) {
	if len(text) > maxCSR {
		return nil, fmt.Errorf("it has %d bytes, and %d is the limit", len(text), maxCSR)
	}
	text = strings.Trim(text, " \t\r\n")
	block, rest := pem.Decode([]byte(text))
	if block == nil || !strings.HasPrefix(text, "-----BEGIN "+blockRequest+"-----") || block.Type != blockRequest || len(block.Headers) > 0 || len(rest) > 0 {
		return nil, errors.New("one PEM block CERTIFICATE REQUEST is needed, without headers, and nothing beside it")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, errors.New("its PEM block holds no PKCS#10 request in DER") // what the parser says may repeat a stranger's bytes
	}
	kind := keyKind(request.PublicKey)
	if kind == "" {
		return nil, errors.New("its key is none of P-256, P-384, Ed25519 and RSA of 2048 to 4096 bits with the exponent 65537")
	}
	if !slices.Contains(accepted, kind) {
		return nil, fmt.Errorf("its key is of kind %s, and the role takes %s", kind, strings.Join(accepted, ", "))
	}
	switch request.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
	default:
		return nil, errors.New("it is signed with a hash that is weak or unknown: use SHA-256")
	}
	if err := request.CheckSignature(); err != nil {
		return nil, errors.New("its signature doesn't verify with its own key")
	}
	return request, nil
}

// keyKind tells the kind of a key that is strong enough; "" for any other.
func keyKind(public any) string {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return KeyP256
		case elliptic.P384():
			return KeyP384
		}
	case ed25519.PublicKey:
		if len(public) == ed25519.PublicKeySize {
			return KeyEd25519
		}
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits >= 2048 && bits <= 4096 && public.E == 65537 {
			return KeyRSA
		}
	}
	return ""
}

// hold says which name a request asks for that isn't among the grant's.
func (n *names) hold(request *x509.CertificateRequest) error {
	missing := func(what, name string) error {
		if len(name) > 100 {
			name = strings.ToValidUTF8(name[:100], "") + "…"
		}
		return fmt.Errorf("it asks for the %s %q, which the grant doesn't give: leave the names out, they come from the grant", what, name)
	}
	if cn := request.Subject.CommonName; cn != "" && cn != n.commonName && !slices.Contains(n.dns, cn) &&
		!slices.ContainsFunc(n.addresses(), func(ip net.IP) bool { return ip.String() == cn }) {
		return missing("common name", cn)
	}
	for _, name := range request.DNSNames {
		if !slices.Contains(n.dns, name) {
			return missing("DNS name", name)
		}
	}
	for _, ip := range request.IPAddresses {
		if !slices.ContainsFunc(n.addresses(), ip.Equal) {
			return missing("address", ip.String())
		}
	}
	for _, uri := range request.URIs {
		if !slices.ContainsFunc(n.uris, func(own *url.URL) bool { return own.String() == uri.String() }) {
			return missing("URI", uri.String())
		}
	}
	if len(request.EmailAddresses) > 0 {
		return missing("e-mail address", request.EmailAddresses[0])
	}
	return nil
}

func makeKey(kind string) (*subjectKey, error) {
	var (
		key  crypto.Signer
		bits = 256
		err  error
	)
	switch kind {
	case KeyP384:
		bits = 384
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case KeyEd25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: making a key: %w", issuers.ErrUnavailable, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding a key: %w", issuers.ErrRejected, err)
	}
	defer clear(der)
	encoded := pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})
	defer clear(encoded)
	return &subjectKey{public: key.Public(), private: string(encoded), bits: bits}, nil
}
