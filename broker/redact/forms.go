package redact

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// fullyEncoded is up to how many bytes a value is also looked for with every byte
// of it encoded (%41%42, \u0041\u0042): nothing does that to long ones, whose lines
// are looked for by themselves besides.
const fullyEncoded = 2 << 10

// Forms gives the spellings in which a value is looked for, the value itself
// first: its lines, the parts of a URL or a JSON object that are secret by
// themselves, and of each of these what base64, hex, percent-encoding, JSON, Go,
// XML, HTML and shells make of it. Forms that hold a line end are left out, since
// their lines are among the forms: so whatever masks line by line can be given
// all of them (GitHub's ::add-mask::). No form is shorter than [MinValue].
func Forms(value string) []string {
	return slicesWithout(forms(value).list, "\r\n")
}

func slicesWithout(list []string, chars string) []string {
	var kept []string
	for _, s := range list {
		if !strings.ContainsAny(s, chars) {
			kept = append(kept, s)
		}
	}
	return kept
}

// set keeps strings in order, each once.
type set struct {
	list []string
	seen map[string]bool
}

func (s *set) add(form string) {
	if len(form) < MinValue || s.seen[form] {
		return
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[form] = true
	s.list = append(s.list, form)
}

// forms are all spellings of a value and of its parts.
func forms(value string) *set {
	parts, all := &set{}, &set{}
	addParts(parts, value, maxNesting)
	for _, part := range parts.list {
		all.add(part)
	}
	for _, part := range parts.list {
		addPairs(all, part)
	}
	for _, part := range parts.list {
		spell(all, part)
	}
	return all
}

// addPairs adds short lines together with the one before and the one behind: by
// themselves they may be too short, and a form that is longer isn't looked for
// across them (MinPiece).
func addPairs(all *set, value string) {
	before, rest, more := strings.Cut(strings.ReplaceAll(value, "\r", ""), "\n")
	for more {
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		if pair := before + "\n" + line; min(len(before), len(line)) < MinPiece && !Common(before+line) {
			all.add(pair)
		}
		before = line
	}
}

// addParts adds a value, its lines, its fields, and theirs.
func addParts(parts *set, value string, depth int) {
	parts.add(value)
	if strings.ContainsAny(value, "\r\n") {
		for line := range strings.SplitSeq(strings.ReplaceAll(value, "\r", "\n"), "\n") {
			// Programs print such values indented, numbered or with other line ends.
			if line = strings.Trim(line, " \t"); !Common(line) {
				parts.add(line)
			}
		}
		lines := strings.ReplaceAll(value, "\r\n", "\n")
		parts.add(lines)
		parts.add(strings.ReplaceAll(lines, "\n", "\r\n"))
	}
	if depth == 0 {
		return
	}
	for _, field := range fields(value) {
		if !Common(field) {
			addParts(parts, field, depth-1)
		}
	}
}

// spell adds what encoders make of one string.
func spell(all *set, s string) {
	addBase64(all, s)
	all.add(hex.EncodeToString([]byte(s)))
	all.add(strings.ToUpper(hex.EncodeToString([]byte(s))))
	if !plain(s) {
		addPercent(all, s)
		addEscapes(all, s)
		addEntities(all, s)
		addQuoted(all, s)
	}
	if len(s) <= fullyEncoded {
		for _, form := range [][2]string{{`%`, ""}, {`\x`, ""}, {`\u00`, ""}, {`&#x`, ";"}} {
			for _, digits := range []string{lowerDigits, upperDigits} {
				all.add(eachByte(s, func(b byte) string { return form[0] + hexByte(b, digits) + form[1] }))
			}
		}
		all.add(eachByte(s, decimalEntity))
	}
}

// addBase64 adds, for each of the three places at which a value can begin in what
// is encoded, the characters that depend on the value alone, and that with the
// end that it has when nothing follows: padded or not.
func addBase64(all *set, s string) {
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		for before := range 3 {
			text := encoding.EncodeToString([]byte("\x00\x00"[:before] + s))
			first := (before*8 + 5) / 6
			last := (before + len(s)) * 8 / 6
			all.add(text[first:last])
			all.add(strings.TrimRight(text[first:], "="))
			all.add(text[first:])
		}
	}
}

// What is left as it is by percent-encoders, besides letters and digits.
const (
	keptNothing   = ""
	keptRFC3986   = "-_.~"                 // RFC 3986, section 2.3; url.QueryEscape; most others
	keptForm      = "*-._"                 // application/x-www-form-urlencoded
	keptComponent = "-_.!~*'()"            // encodeURIComponent
	keptURI       = "-_.!~*'();/?:@&=+$,#" // encodeURI
	keptSlash     = "-_.~/"                // urllib.parse.quote
	keptSegment   = "-_.~$&+=:@"           // url.PathEscape
	keptPath      = "-_.~$&+,/:;=@"        // URL.EscapedPath
	keptUser      = "-_.~$&+,;="           // url.UserPassword
	keptPchar     = "-_.~!$&'()*+,;=:@"    // RFC 3986, section 3.3
	keptPchars    = "-_.~!$&'()*+,;=:@/"   // the same, whole paths
	keptBrowser   = "-_.~!$&'()*+,%"       // the URL standard's userinfo set leaves these
)

func addPercent(all *set, s string) {
	for _, kept := range []string{
		keptNothing, keptRFC3986, keptForm, keptComponent, keptURI, keptSlash, keptSegment, keptPath, keptUser, keptPchar, keptPchars, keptBrowser,
	} {
		for _, digits := range []string{lowerDigits, upperDigits} {
			encode := func(b byte) string {
				if alphanumeric(b) || strings.IndexByte(kept, b) >= 0 {
					return string([]byte{b})
				}
				return "%" + hexByte(b, digits)
			}
			form := eachByte(s, encode)
			all.add(form)
			if strings.ContainsRune(s, ' ') {
				all.add(strings.ReplaceAll(form, "%20", "+"))
			}
		}
	}
}

const (
	lowerDigits = "0123456789abcdef"
	upperDigits = "0123456789ABCDEF"
)

func hexByte(b byte, digits string) string {
	return string([]byte{digits[b>>4], digits[b&15]})
}

func alphanumeric(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z'
}

// plain says that encoders of text leave all of a string as it is, if they encode
// no letters and digits.
func plain(s string) bool {
	for i := range len(s) {
		if !alphanumeric(s[i]) {
			return false
		}
	}
	return true
}

func eachByte(s string, encode func(b byte) string) string {
	var out strings.Builder
	for i := range len(s) {
		out.WriteString(encode(s[i]))
	}
	return out.String()
}
