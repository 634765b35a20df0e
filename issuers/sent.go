package issuers

// SentError says what is wrong with what a job sent along: its CSR or public key.
// The job gets to read it, so it tells of nothing else. It wraps [ErrRejected].
type SentError struct{ Detail string }

// Error implements error.
func (e *SentError) Error() string { return e.Detail }

// Unwrap makes it an [ErrRejected].
func (*SentError) Unwrap() error { return ErrRejected }
