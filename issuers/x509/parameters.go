package x509

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// parameters are a grant's `with`.
//
//	with:
//	  dns_names: ["{{ claims.environment }}.svc.example.com"]
//	  ip_addresses: [10.1.0.7]
//	  uris: [spiffe://example.com/ci/payments]
//	  common_name: payments
type parameters struct {
	dnsNames, ipAddresses, uris []string
	commonName                  string
}

const maxParameters = 64 << 10

var errParameters = errors.New("the certificate's parameters are no object of dns_names, ip_addresses, uris (lists of texts) and common_name")

// parseParameters reads strictly: each name as it is written here, once, and
// nothing behind the object. encoding/json alone would take the last of two.
func parseParameters(raw json.RawMessage) (*parameters, error) {
	p := &parameters{}
	if len(raw) == 0 {
		return p, nil
	}
	if len(raw) > maxParameters {
		return nil, fmt.Errorf("the parameters have %d bytes, and %d is the limit", len(raw), maxParameters)
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, errParameters
	}
	seen := map[string]bool{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, errParameters
		}
		name, _ := key.(string)
		if seen[name] {
			return nil, fmt.Errorf("%q stands twice in the certificate's parameters", name)
		}
		seen[name] = true
		switch name {
		case "dns_names":
			err = decodeTexts(decoder, &p.dnsNames)
		case "ip_addresses":
			err = decodeTexts(decoder, &p.ipAddresses)
		case "uris":
			err = decodeTexts(decoder, &p.uris)
		case "common_name":
			var text *string
			if err = decoder.Decode(&text); err == nil && (text == nil || *text == "") {
				err = errors.New("empty")
			} else if err == nil {
				p.commonName = *text
			}
		default:
			return nil, fmt.Errorf("there is no parameter %q: dns_names, ip_addresses, uris and common_name are what there is", name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, errParameters)
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errParameters
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errParameters
	}
	return p, nil
}

func decodeTexts(decoder *json.Decoder, into *[]string) error {
	var list []*string
	if err := decoder.Decode(&list); err != nil {
		return err
	}
	if len(list) == 0 {
		return errors.New("empty")
	}
	for _, text := range list {
		if text == nil || *text == "" {
			return errors.New("empty")
		}
		*into = append(*into, *text)
	}
	return nil
}
