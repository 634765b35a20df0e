package api

import "time"

// The kinds of a Switch.
const (
	SwitchProvider = "provider"
	SwitchPolicy   = "policy"
	SwitchGrant    = "grant" // its name is POLICY/GRANT
	SwitchIssuer   = "issuer"
)

// SwitchRequest is the body of POST /v1/switches.
type SwitchRequest struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Off    bool   `json:"off"`              // false: on again
	Revoke bool   `json:"revoke,omitempty"` // with off: its live leases are taken back as well
	Reason string `json:"reason,omitempty"` // with off it is required
}

// Switch is something that an operator turned off, or off and on again.
type Switch struct {
	Kind      string    `json:"kind"`
	Name      string    `json:"name"`
	Off       bool      `json:"off"`
	Reason    string    `json:"reason,omitempty"`
	Actor     string    `json:"actor"` // who changed it last
	ChangedAt time.Time `json:"changed_at"`
	Sweeping  bool      `json:"sweeping,omitempty"` // its leases are being looked for and taken back
	Swept     int64     `json:"swept,omitempty"`    // how many began to be taken back since it was turned off
}

// SwitchList answers GET /v1/switches: what is off first, then what was last.
type SwitchList struct {
	Switches []Switch `json:"switches"`
}

// Broker is one broker of the fleet.
type Broker struct {
	ID        string    `json:"id"`
	Host      string    `json:"host"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
	SeenAt    time.Time `json:"seen_at"` // at most ten seconds ago of one that is well
	Tasks     []string  `json:"tasks"`   // what it does once for the fleet
}

// BrokerList answers GET /v1/brokers: those seen within a day, the last seen first.
type BrokerList struct {
	Brokers []Broker `json:"brokers"`
}
