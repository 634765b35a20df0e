package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/issuers"
)

// SQLSTATEs of the set-up's functions.
const (
	codeLate          = "DP001" // the deadline passed
	codeEnded         = "DP002" // revoked before
	codeExists        = "DP003" // made before
	codeNotSetUp      = "DP004" // role, group or account isn't set up
	codeMalformed     = "DP005"
	codeBlocked       = "DP006" // a person has to decide
	codeLocked        = "DP007" // somebody holds a lock
	codeBusy          = "DP008" // a session or login is left: from the first step again
	codeInert         = "DP009" // the broker's database is an older copy
	codeStillDepended = "2BP01" // dependent_objects_still_exist
)

// targetError is what is told of an answer of the target: pgx's own errors
// carry the connection's configuration and the failing statement's text, which
// hold secrets, so nothing of them is wrapped.
type targetError struct {
	kind error  // a sentinel of package issuers
	code string // SQLSTATE, or ""
	text string
}

func (e *targetError) Error() string { return e.kind.Error() + ": " + e.text }

func (e *targetError) Unwrap() error { return e.kind }

// classify turns an error of pgx into one of the contract's. The kinds that
// the caller's step allows are its own matter: see Issue and Revoke.
func classify(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ours, ok := errors.AsType[*targetError](err); ok {
		return ours
	}
	e := &targetError{kind: issuers.ErrUnavailable}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		e.code = answer.Code
		e.kind = kindOf(answer.Code)
		e.text = doing + ": " + plain(answer.Message) + " (SQLSTATE " + answer.Code + ")"
		if answer.Code == codeStillDepended {
			e.text += ": " + plain(answer.Detail)
		}
		if hint := hintOf(answer); hint != "" {
			e.text += "\nhint: " + plain(hint)
		}
		return e
	}
	switch {
	case ctx.Err() != nil:
		e.text = doing + ": " + context.Cause(ctx).Error()
	case errors.Is(err, context.DeadlineExceeded):
		e.text = doing + ": no answer in time"
	default:
		// Of a connection that couldn't be made pgx tells host, account and
		// database; of one that broke, what the network said.
		e.text = doing + ": " + plain(err.Error())
	}
	return e
}

func kindOf(code string) error {
	switch code {
	case codeLate, codeEnded:
		return issuers.ErrLate
	case codeBlocked, codeLocked, codeStillDepended, "55006":
		return issuers.ErrBlocked
	case codeExists, codeNotSetUp, codeMalformed, codeInert:
		return issuers.ErrRejected
	case codeBusy:
		return issuers.ErrUnavailable
	}
	switch code[:min(2, len(code))] {
	case "08", // connection exception
		"28", // the login was refused: mended by a new password file
		"25", // read-only: a standby, or one being promoted
		"40", // deadlock, serialization failure
		"53", // insufficient resources
		"55", // lock not available
		"57", // shutdown, statement timeout
		"58", // I/O error
		"XX": // tuple concurrently updated
		return issuers.ErrUnavailable
	}
	return issuers.ErrRejected
}

// hintOf passes on the hints of our own functions; a target's other hints are
// about statements that nobody here wrote by hand.
func hintOf(answer *pgconn.PgError) string {
	switch {
	case strings.HasPrefix(answer.Code, "DP"):
		return answer.Hint
	case answer.Code == "42883" || answer.Code == "3F000" || // no such function or schema
		answer.Code == "42501" && (strings.Contains(answer.Message, "for function") || strings.Contains(answer.Message, "for schema")):
		return `run what "daypassd target setup postgres" prints on this target`
	case strings.HasPrefix(answer.Code, "28"):
		return "check the admin's password file; it is read again at the next try"
	}
	return ""
}

const maxText = 500

// plain makes a target's text fit for a log line: a job may have chosen parts of it.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

func errorf(kind error, format string, args ...any) error {
	return &targetError{kind: kind, text: fmt.Sprintf(format, args...)}
}
