package oidc

import "github.com/daypass/daypass/broker/jose"

// What package jose calls them, and its bounds.
const (
	algRS256 = jose.RS256
	algPS256 = jose.PS256
	algES256 = jose.ES256
	algES384 = jose.ES384
	algEdDSA = jose.EdDSA

	maxDepth   = 16
	minRSABits = 2048
	maxUnix    = 253402300799
)
