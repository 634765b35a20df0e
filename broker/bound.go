package broker

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"github.com/daypass/daypass/broker/dpop"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// Tokens that are bound to a key (RFC 9449). One exchange binds to one key: that stands
// with the session token that it makes, and by it with all leases that are held by that.

// prove says which key the sender of a good token has.
func (r *ExchangeRequest) prove(held *leases.Held) (thumbprint []byte, err error) {
	if r.Prove != nil {
		if thumbprint, err = r.Prove(held); err != nil {
			return nil, err
		}
	}
	if held != nil && held.Thumbprint != nil && !bytes.Equal(held.Thumbprint, thumbprint) {
		return nil, &dpop.Error{Detail: "the token is bound to a key, and the request came without a proof of that one"}
	}
	return thumbprint, nil
}

// checkBound refuses a token without a key where there is none such, and one that
// would be taken for bound and isn't.
func checkBound(w GrantRequest, about *issuers.Description, caller *asking) error {
	switch {
	case about.BoundOnly && caller.vault:
		return &RequestError{Detail: fmt.Sprintf("grant %s gives tokens that are bound to a key (DPoP), which clients of Vault can't use: ask for it by POST /v1/exchange or /oauth/token", w.Name)}
	case about.BoundOnly && caller.thumbprint == nil:
		return &RequestError{Detail: fmt.Sprintf("grant %s gives tokens that are bound to a key of the job's: send a proof of one in the header DPoP (RFC 9449), or use `daypass exec --dpop`", w.Name)}
	case w.Bound && !about.Bindable:
		return &RequestError{Detail: fmt.Sprintf("grant %s gives a token that can't be bound to a key, since its verifiers ask for no proof: leave the header DPoP out", w.Name)}
	}
	return nil
}

// thumbprint is the key that the credential of an order is bound to; "" where it isn't.
func thumbprint(r *leases.Reservation, o *order) string {
	if !o.about.Bindable {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(r.Token.Thumbprint)
}
