package keys

import "time"

// What verifiers, the JWKS and rotation agree on.
const (
	// JWKSMaxAge is how long a verifier may keep the JWKS without asking again.
	JWKSMaxAge = 5 * time.Minute

	// ClockStep is how far a clock that is set right may jump without harm.
	ClockStep = time.Hour

	// RotationLead is how long a key stands in the JWKS before it signs: the larger
	// of a day and twice JWKSMaxAge, and a step of the clock.
	RotationLead = 24*time.Hour + ClockStep

	// MinRotateEvery is the shortest life of a signing key: the next one needs its lead.
	MinRotateEvery = RotationLead + time.Hour
	// MaxRotateEvery is the longest that a schedule may say.
	MaxRotateEvery = 366 * 24 * time.Hour
	// DefaultRotateEvery is used where nothing else is configured.
	DefaultRotateEvery = 30 * 24 * time.Hour
)
