package api

import "time"

// Paths of the revocation of many leases.
const (
	PathLeasesRevoke = "/v1/leases/revoke"
	PathJobs         = "/v1/jobs" // a job: /v1/jobs/{id}; its verbs: /v1/jobs/{id}/pause and …/resume
)

// StateStuck is taken as a state by GET /v1/leases: those that are being revoked
// and wait for a person.
const StateStuck = "stuck"

// The states of a Job.
const (
	JobRunning = "running"
	JobPaused  = "paused"
	JobDone    = "done"
)

// LeaseSelector says which leases are meant. An empty field fits all; several
// must all fit.
type LeaseSelector struct {
	Policy        string     `json:"policy,omitempty"`
	Grant         string     `json:"grant,omitempty"` // GRANT, or POLICY/GRANT
	Issuer        string     `json:"issuer,omitempty"`
	Session       string     `json:"session,omitempty"`
	Subject       string     `json:"subject,omitempty"`
	Provider      string     `json:"provider,omitempty"`
	State         string     `json:"state,omitempty"` // active or issuing
	Target        string     `json:"target,omitempty"`
	ExpiresBefore *time.Time `json:"expires_before,omitempty"`
}

// MassRevokeRequest is the body of POST /v1/leases/revoke.
type MassRevokeRequest struct {
	Selector LeaseSelector `json:"selector"`
	All      bool          `json:"all,omitempty"` // says that an empty selector is meant
	Reason   string        `json:"reason,omitempty"`
	DryRun   bool          `json:"dry_run,omitempty"` // counts, and revokes nothing
}

// MassRevokeResponse answers POST /v1/leases/revoke: 202 with a job to watch, 200
// where it was only counted.
type MassRevokeResponse struct {
	Matched int    `json:"matched"`            // live leases that fit
	AtLeast bool   `json:"at_least,omitempty"` // there are more than were counted
	Job     string `json:"job,omitempty"`
	DryRun  bool   `json:"dry_run,omitempty"`
}

// Job is a revocation of many leases.
type Job struct {
	ID        string        `json:"id"`
	State     string        `json:"state"` // running, paused, done
	Selector  LeaseSelector `json:"selector"`
	Actor     string        `json:"actor"`
	Reason    string        `json:"reason"`
	CreatedAt time.Time     `json:"created_at"`
	EndedAt   *time.Time    `json:"ended_at,omitempty"`
	Matched   int           `json:"matched"` // live leases that fitted when it was made
	AtLeast   bool          `json:"at_least,omitempty"`
	Begun     int           `json:"begun"`            // can't be renewed any more, and are being taken back
	Revoked   int           `json:"revoked"`          // of those: taken back
	Failed    int           `json:"failed,omitempty"` // of those: tried in vain, and tried again
	Stuck     int           `json:"stuck,omitempty"`  // of those: wait for a person
}

// JobList answers GET /v1/jobs, newest first.
type JobList struct {
	Jobs []Job  `json:"jobs"`
	Next string `json:"next,omitempty"`
}
