package api

import "time"

// PathTargets is where the issuers are that make something on a target: GET lists
// them, GET PathTargets/ISSUER tells what differs between one and the leases, and
// POST PathTargets/ISSUER/reconcile compares the two.
const PathTargets = "/v1/targets"

// MaxDifferences is how many of each kind an answer has at the most.
const MaxDifferences = 1000

// ReconcileRequest is the optional body of POST /v1/targets/{issuer}/reconcile.
type ReconcileRequest struct {
	DryRun bool `json:"dry_run,omitempty"` // takes nothing back
	Force  bool `json:"force,omitempty"`   // takes orphans back however many there are
}

// Target is one issuer's, and how it was compared with the leases the last time.
type Target struct {
	Issuer         string          `json:"issuer"`
	Address        string          `json:"address,omitempty"`
	CanList        bool            `json:"can_list"` // false: nothing tells what stands there
	Reconciliation *Reconciliation `json:"reconciliation,omitempty"`
}

// TargetList answers GET /v1/targets.
type TargetList struct {
	Targets []Target `json:"targets"`
}

// Reconciliation is one comparison of a target with the leases.
type Reconciliation struct {
	ID        string     `json:"id"`
	Actor     string     `json:"actor"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at,omitempty"` // absent: it goes on
	Epoch     int64      `json:"epoch"`
	DryRun    bool       `json:"dry_run"`
	Forced    bool       `json:"forced,omitempty"`
	Listed    int        `json:"listed"`          // credentials of this installation on the target
	Young     int        `json:"young,omitempty"` // without a live lease, but not for long enough to be sure
	Alien     int        `json:"alien,omitempty"` // told by the issuer, and not this installation's: left alone
	Orphans   int        `json:"orphans"`
	Revoked   int        `json:"revoked"` // of the orphans
	Missing   int        `json:"missing"` // live leases whose credential is gone
	Error     string     `json:"error,omitempty"`
}

// Orphan is a credential of this installation that no live lease knows.
type Orphan struct {
	ID        string     `json:"id"` // its subject in the audit log
	Name      string     `json:"name"`
	LeaseID   string     `json:"lease_id,omitempty"` // absent: nothing tells
	Why       string     `json:"why"`
	CreatedAt *time.Time `json:"created_at,omitempty"` // by the target
	FoundAt   time.Time  `json:"found_at"`
	Revoked   bool       `json:"revoked"`
	Attempts  int        `json:"attempts,omitempty"` // that failed
	LastError string     `json:"last_error,omitempty"`
}

// MissingCredential is a live lease whose credential is gone.
type MissingCredential struct {
	LeaseID string    `json:"lease_id"`
	Since   time.Time `json:"since"` // when it was first missed
}

// TargetReport answers GET /v1/targets/{issuer}, and POST …/reconcile: 200 when it
// has ended, and 202 when it goes on.
type TargetReport struct {
	Target

	Orphans      []Orphan            `json:"orphans"` // that stand, and those that this reconciliation took back
	OrphansTotal int                 `json:"orphans_total"`
	Missing      []MissingCredential `json:"missing"`
	MissingTotal int                 `json:"missing_total"`
}
