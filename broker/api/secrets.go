package api

import "time"

// PathSecrets is where static secrets are: GET lists them, GET PathSecrets/NAME
// reads one, PUT makes or changes one, POST PathSecrets/NAME:VERB does something
// with it. A name has slashes of its own, and never a colon.
const PathSecrets = "/v1/secrets"

// The verbs, and GET PathSecrets/NAME:reads.
const (
	SecretVerify   = "verify"
	SecretPromote  = "promote"
	SecretRollback = "rollback"
	SecretDestroy  = "destroy"
	SecretRotate   = "rotate"
	SecretReads    = "reads"
)

// SecretPut is the body of PUT /v1/secrets/NAME. What is absent stays as it is.
type SecretPut struct {
	Description  *string   `json:"description,omitempty"`
	Owner        *string   `json:"owner,omitempty"`         // required of a new secret
	RotateEvery  *string   `json:"rotate_every,omitempty"`  // "720h"; "0s": never due
	RotateFields *[]string `json:"rotate_fields,omitempty"` // what a rotation makes up anew; empty: all
	Hook         *string   `json:"hook,omitempty"`          // "": by hand; generate; a configured one
	// Values makes a pending version. They are never answered.
	Values map[string]string `json:"values,omitempty"`
	// RandomBits says of values how many of their bits nobody can guess: those with
	// 128 or more are remembered as keyed fingerprints.
	RandomBits map[string]int `json:"random_bits,omitempty"`
	Replace    bool           `json:"replace,omitempty"` // destroys a pending version that is in the way
}

// SecretChange is the body of POST /v1/secrets/NAME:VERB.
type SecretChange struct {
	Version int  `json:"version,omitempty"` // required by all verbs but rotate
	Force   bool `json:"force,omitempty"`   // of destroy: also what is current, or held by live leases
}

// Secret is what is known of a static secret: never its values.
type Secret struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	Description  string          `json:"description,omitempty"`
	Owner        string          `json:"owner"`
	RotateEvery  string          `json:"rotate_every,omitempty"`
	RotateFields []string        `json:"rotate_fields,omitempty"`
	Hook         string          `json:"hook,omitempty"`
	DueAt        *time.Time      `json:"due_at,omitempty"`     // when its current version should have been replaced
	RotateAt     *time.Time      `json:"rotate_at,omitempty"`  // when the broker goes on with its rotation
	Attempts     int             `json:"attempts,omitempty"`   // that failed
	LastError    string          `json:"last_error,omitempty"` // of the last of them
	CreatedAt    time.Time       `json:"created_at"`
	Current      int             `json:"current,omitempty"`  // number of its current version
	Pending      int             `json:"pending,omitempty"`  // and of its pending one
	Versions     []SecretVersion `json:"versions,omitempty"` // the last hundred, newest first; not in lists
}

// SecretVersion is what is known of one version.
type SecretVersion struct {
	Version     int        `json:"version"`
	State       string     `json:"state"`  // pending, current, retired, destroyed
	Origin      string     `json:"origin"` // put, rotation
	Fields      []string   `json:"fields"` // their names
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by"`
	SetAt       *time.Time `json:"set_at,omitempty"` // its hook put it into the target
	VerifiedAt  *time.Time `json:"verified_at,omitempty"`
	PromotedAt  *time.Time `json:"promoted_at,omitempty"`
	RetiredAt   *time.Time `json:"retired_at,omitempty"`
	DestroyedAt *time.Time `json:"destroyed_at,omitempty"`
}

// SecretList answers GET /v1/secrets, by name.
type SecretList struct {
	Secrets []Secret `json:"secrets"`
	Next    string   `json:"next,omitempty"`
}

// SecretRead says that a lease read a version.
type SecretRead struct {
	ID       string    `json:"id"`
	Version  int       `json:"version"`
	At       time.Time `json:"at"`
	LeaseID  string    `json:"lease_id"`
	State    string    `json:"state"` // of the lease
	Grant    string    `json:"grant"`
	Provider string    `json:"provider"`
	Subject  string    `json:"subject"` // the job token's sub
	Session  string    `json:"session"`
}

// SecretReadList answers GET /v1/secrets/NAME:reads, newest first.
type SecretReadList struct {
	Reads []SecretRead `json:"reads"`
	Next  string       `json:"next,omitempty"`
}
