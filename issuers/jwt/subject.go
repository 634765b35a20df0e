package jwt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/daypass/daypass/issuers"
)

const (
	// maxSubject is OpenID Connect Core 1.0, section 2: sub has at most 255 ASCII characters.
	maxSubject      = 255
	maxSubjectParts = 5
)

// subjectOf is daypass:TENANT/POLICY/GRANT and, for each part that the grant adds,
// a colon and the part. Everything but the unreserved characters of RFC 3986,
// section 2.3 is escaped, the colon and the slash among them: no part ends early,
// so two subjects are equal only where all of their names and parts are, and
// whatever begins with a grant's subject and a colon is that grant's.
func subjectOf(lease issuers.Lease, parts []string) string {
	var b strings.Builder
	b.WriteString("daypass:")
	escape(&b, lease.Tenant)
	b.WriteByte('/')
	escape(&b, lease.Policy)
	b.WriteByte('/')
	escape(&b, lease.Grant)
	for _, part := range parts {
		b.WriteByte(':')
		escape(&b, part)
	}
	return b.String()
}

func escape(b *strings.Builder, text string) {
	const digits = "0123456789ABCDEF"
	for i := range len(text) {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
}

// checkParts refuses parts that would let two jobs share a subject: an empty one,
// and one with two templates, where the end of the first could pass for the
// beginning of the second.
func checkParts(parts []string, templates bool) error {
	if len(parts) > maxSubjectParts {
		return fmt.Errorf("subject: %d parts are too many, %d is the limit", len(parts), maxSubjectParts)
	}
	for _, part := range parts {
		if part == "" {
			return errors.New("subject: an empty part\nhint: leave `subject` out for daypass:TENANT/POLICY/GRANT alone")
		}
		if templates && strings.Count(part, "{{") > 1 {
			return fmt.Errorf("subject: %q has two templates, so that two jobs could share a subject\nhint: write a list, one template in each part", part)
		}
	}
	return nil
}

// literalParts is what stands in the parts before any template is filled: a
// subject is at least that long, and each template adds a byte at the least.
func literalParts(parts []string) []string {
	literal := make([]string, len(parts))
	for i, part := range parts {
		before, rest, found := strings.Cut(part, "{{")
		if !found {
			literal[i] = part
			continue
		}
		_, after, _ := strings.Cut(rest, "}}")
		literal[i] = before + "x" + after
	}
	return literal
}
