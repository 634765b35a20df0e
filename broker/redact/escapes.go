package redact

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// addEscapes adds what a value looks like in the source of JSON, of Go, and of the
// languages that write strings as C does.
func addEscapes(all *set, s string) {
	for _, form := range jsonForms(s) {
		all.add(form)
		// JSON in a string of JSON: a log collector's record of a program's.
		for _, twice := range jsonForms(form) {
			all.add(twice)
		}
	}
	for _, quoted := range []string{strconv.Quote(s), strconv.QuoteToASCII(s)} {
		form := quoted[1 : len(quoted)-1]
		all.add(form)
		all.add(strings.ReplaceAll(form, `\"`, `"`))                                // between apostrophes or backquotes
		all.add(strings.ReplaceAll(strings.ReplaceAll(form, `\"`, `"`), `'`, `\'`)) // Python's repr, $'…' of a shell
	}
}

// jsonForms are the ways in which encoders write a string in JSON: with or without
// what HTML needs, slashes, and runes beyond ASCII; hex in either case.
func jsonForms(s string) []string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD") // as they do
	}
	plain, err := json.Marshal(s)
	if err != nil {
		return nil
	}
	html := string(plain[1 : len(plain)-1])
	bare := unescapeHTML(html)
	var list []string
	for _, form := range []string{html, bare, strings.ReplaceAll(html, "/", `\/`), strings.ReplaceAll(bare, "/", `\/`)} {
		ascii := toASCII(form)
		for _, spelling := range []string{form, ascii, upperUnicode(form), upperUnicode(ascii)} {
			if !slices.Contains(list, spelling) { // most values have one
				list = append(list, spelling)
			}
		}
	}
	return list
}

// unescapeHTML undoes what json.Marshal does to <, > and & alone. A backslash
// before it would be one of the value's own, so pairs are passed over.
func unescapeHTML(form string) string {
	return strings.NewReplacer(`\\`, `\\`, `\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(form)
}

// toASCII writes every rune beyond ASCII as \uXXXX, as a pair of surrogates where
// it needs two.
func toASCII(form string) string {
	var out strings.Builder
	for _, r := range form {
		switch high, low := utf16.EncodeRune(r); {
		case r < utf8.RuneSelf:
			out.WriteByte(byte(r)) //nolint:gosec // less than 128
		case high != utf8.RuneError:
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// upperUnicode writes the hex of \uXXXX in upper case.
func upperUnicode(form string) string {
	b := []byte(form)
	for i := 0; i+1 < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		if i++; b[i] == 'u' && i+4 < len(b) {
			copy(b[i+1:], strings.ToUpper(string(b[i+1:i+5])))
		}
	}
	return string(b)
}

// addEntities adds what a value looks like in XML and HTML.
func addEntities(all *set, s string) {
	const special = `&<>"'`
	named := []string{"&amp;", "&lt;", "&gt;", "&quot;", "&apos;"}
	for _, quotes := range [][2]string{
		{"&quot;", "&apos;"},
		{"&quot;", "&#39;"},
		{"&quot;", "&#x27;"},
		{"&#34;", "&#39;"}, // html.EscapeString, xml.EscapeText
		{"&#x22;", "&#x27;"},
		{"&quot;", "'"},
		{`"`, "&apos;"},
		{`"`, "'"},
	} {
		names := append(append([]string(nil), named[:3]...), quotes[0], quotes[1])
		all.add(eachByte(s, func(b byte) string {
			if i := strings.IndexByte(special, b); i >= 0 {
				return names[i]
			}
			return string([]byte{b})
		}))
	}
	for _, numbered := range []func(byte) string{
		decimalEntity,
		func(b byte) string { return "&#x" + strings.TrimLeft(hexByte(b, lowerDigits), "0") + ";" },
		func(b byte) string { return "&#x" + strings.TrimLeft(hexByte(b, upperDigits), "0") + ";" },
	} {
		all.add(eachByte(s, func(b byte) string {
			if strings.IndexByte(special, b) >= 0 || b < ' ' {
				return numbered(b)
			}
			return string([]byte{b})
		}))
		all.add(eachByte(s, func(b byte) string {
			if alphanumeric(b) || b >= utf8.RuneSelf {
				return string([]byte{b})
			}
			return numbered(b)
		}))
	}
}

func decimalEntity(b byte) string { return "&#" + strconv.Itoa(int(b)) + ";" }

// addQuoted adds what a value looks like between the quotes of shells (sh, printf
// %q, set -x), PowerShell, SQL and CSV.
func addQuoted(all *set, s string) {
	all.add(strings.ReplaceAll(s, `'`, `'\''`))
	all.add(strings.ReplaceAll(s, `'`, `'"'"'`))
	all.add(strings.ReplaceAll(s, `'`, `''`))
	all.add(strings.ReplaceAll(s, `"`, `""`))
	for _, special := range []string{"\\\"$`", "\\\"$`!", " \t!\"#$&'()*,;<>?[\\]^`{|}~", " \t!\"#$&'()*,;<=>?@[\\]^`{|}~:+%"} {
		all.add(before(s, special, `\`))
	}
	for _, special := range []string{"`\"$", "`$", "`\"$'"} {
		all.add(before(s, special, "`"))
	}
}

// before puts mark in front of each of the special characters.
func before(s, special, mark string) string {
	return eachByte(s, func(b byte) string {
		if strings.IndexByte(special, b) >= 0 {
			return mark + string([]byte{b})
		}
		return string([]byte{b})
	})
}
