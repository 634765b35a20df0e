package strictyaml

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Duration is a length of time as it stands in a file: 90s, 15m, 1h30m, 7d.
type Duration time.Duration

// Std is the duration as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is the standard library's form.
func (d Duration) String() string { return time.Duration(d).String() }

const durationHint = "write a number and s, m, h or d, such as 15m"

// ParseDuration reads a duration in seconds, minutes, hours and days, largest
// unit first, each at most once: 90s, 1h30m, 7d. Fractions and signs are refused.
func ParseDuration(text string) (time.Duration, error) {
	units := []struct {
		letter byte
		length time.Duration
	}{{'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}
	var total time.Duration
	rest, next := text, 0
	for rest != "" {
		digits := 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			digits++
		}
		if digits == 0 || digits > 9 || digits == len(rest) {
			return 0, fmt.Errorf("%q is not a duration: %s", text, durationHint)
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading duration %q: %w", text, err)
		}
		for next < len(units) && units[next].letter != rest[digits] {
			next++
		}
		if next == len(units) {
			return 0, fmt.Errorf("%q is not a duration: %s", text, durationHint)
		}
		if n > int64(100*365*24*time.Hour/units[next].length) {
			return 0, fmt.Errorf("the duration %q is longer than 100 years", text)
		}
		total += time.Duration(n) * units[next].length
		rest, next = rest[digits+1:], next+1
	}
	if text == "" {
		return 0, fmt.Errorf("an empty duration: %s", durationHint)
	}
	return total, nil
}

var (
	decimalInt = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	})
	decimalFloat = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?$`)
	})
	// What some reader of YAML takes for a number, a time or a date.
	numberLike = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[-+]?(\.?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|0[xob][0-9a-fA-F_]+|[0-9]+(:[0-9]+)+(\.[0-9]*)?|\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
	})
	dateLike = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?$`)
	})
)

// numeric says whether the text begins as all numbers and dates do.
func numeric(text string) bool {
	return text != "" && (text[0] >= '0' && text[0] <= '9' || text[0] == '-' || text[0] == '+' || text[0] == '.')
}

// surprise says what a plain (unquoted) text might be taken for by another
// reader of YAML, or "" when all agree that it is a text.
func surprise(text string) string {
	if len(text) <= len("false") {
		switch strings.ToLower(text) {
		case "yes", "no", "on", "off", "y", "n", "true", "false":
			return "a truth value"
		case "null", "~", "":
			return "nothing"
		}
	}
	switch {
	case !numeric(text):
		return ""
	case numberLike().MatchString(text):
		return "a number"
	case dateLike().MatchString(text):
		return "a date"
	default:
		return ""
	}
}

// Time is a moment as it stands in a file, as RFC 3339 writes it:
// 2026-11-23T10:00:00Z. It needs no quotes: where one is wanted, nobody takes it
// for something else.
type Time time.Time

// Std is the moment as the standard library has it.
func (t Time) Std() time.Time { return time.Time(t) }

const timeHint = "write it as RFC 3339 does: 2026-11-23T10:00:00Z"

// Date is a day as it stands in a file, such as 2026-12-01: the moment at which
// it begins, in UTC. Where the hour matters, a time as RFC 3339 writes it may
// stand instead. Neither needs quotes.
type Date time.Time

// Std is the moment as the standard library has it.
func (d Date) Std() time.Time { return time.Time(d) }

const dateHint = "write a day: 2026-12-01"

// Unmarshaler is a type of fields with a form of its own, which it reads by a
// method of its pointer. What it doesn't accept becomes a mistake at the place of
// the value, with the error for a text; the hint says what to write, and may be
// empty. It is asked only about values without mistakes of their own: a plain
// scalar that could be taken for several things has been refused before.
type Unmarshaler interface {
	DecodeYAML(v Value) (hint string, err error)
}

func quote(text string) string { return "quote it: " + strconv.Quote(text) }
