package issuers

// Introspected is an Issuer whose credentials say nothing by themselves: whoever
// gets one asks the broker what it is good for.
type Introspected interface {
	// Access says what the credentials of a role are good for as of now: no network.
	// False where there is no such role any more.
	Access(role string) (Access, bool)
}

// Access is what a token is good for.
type Access struct {
	Audiences []string // whoever may accept it, compared exactly
	Scopes    []string // RFC 6749, section 3.3; may be empty
	BoundOnly bool     // a token that is bound to no key is good for nothing
}
