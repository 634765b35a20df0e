package strictyaml

import (
	"reflect"
	"strconv"
	"strings"
	"time"
)

func (d *decoder) text(n *node, into *string) {
	if !n.leaf() {
		hint := ""
		if n.kind == mappingOf && n.flow {
			hint = "a text that begins with { stands in quotes"
		}
		d.add(n, hint, "a text is wanted here, this is %s", n.describe())
		return
	}
	if n.plain() {
		if what := surprise(n.text); what != "" {
			d.add(n, quote(n.text), "a text is wanted here, this could be taken for %s", what)
			return
		}
	}
	*into = n.text
}

func (d *decoder) integer(n *node, into reflect.Value) {
	if !n.plain() || !decimalInt().MatchString(n.text) {
		d.add(n, "write it in decimal digits, without quotes", "a whole number is wanted here, this is %s", n.describe())
		return
	}
	number, err := strconv.ParseInt(n.text, 10, into.Type().Bits())
	if err != nil {
		d.add(n, "", "the number %s is too large", n.text)
		return
	}
	into.SetInt(number)
}

func (d *decoder) duration(n *node, into *Duration) {
	length, err := ParseDuration(n.text)
	if !n.leaf() || err != nil {
		d.add(n, durationHint, "a duration is wanted here, this is %s", n.describe())
		return
	}
	*into = Duration(length)
}

func (d *decoder) time(n *node, into *Time) {
	moment, err := time.Parse(time.RFC3339, n.text)
	if !n.leaf() || err != nil {
		d.add(n, timeHint, "a time is wanted here, this is %s", n.describe())
		return
	}
	*into = Time(moment)
}

func (d *decoder) date(n *node, into *Date) {
	moment, err := time.Parse(time.DateOnly, n.text)
	if err != nil {
		moment, err = time.Parse(time.RFC3339, n.text)
	}
	if !n.leaf() || err != nil {
		d.add(n, dateHint, "a day is wanted here, this is %s", n.describe())
		return
	}
	*into = Date(moment)
}

// plain gives a scalar without quotes its type, when all readers of YAML agree on it.
func (d *decoder) plain(n *node) (any, bool) {
	if n.text == "true" || n.text == "false" {
		return n.text == "true", true
	}
	if !numeric(n.text) {
		return d.word(n)
	}
	if decimalInt().MatchString(n.text) {
		number, err := strconv.ParseInt(n.text, 10, 64)
		if err != nil {
			d.add(n, quote(n.text), "the number %s is too large", n.text)
		}
		return number, err == nil
	}
	if decimalFloat().MatchString(n.text) {
		f, err := strconv.ParseFloat(n.text, 64)
		return f, err == nil
	}
	return d.word(n)
}

// word is a text without quotes, unless some reader takes it for something else.
func (d *decoder) word(n *node) (any, bool) {
	if what := surprise(n.text); what != "" {
		d.add(n, quote(n.text), "this could be taken for %s", what)
		return nil, false
	}
	return n.text, true
}

// show is a key as mistakes quote it: short, and of visible characters.
func show(key string) string {
	if len(key) > 40 {
		key = strings.ToValidUTF8(key[:40], "") + "…"
	}
	if strings.ContainsFunc(key, func(r rune) bool { return invisible(r) || r == ' ' }) || key == "" {
		return strconv.Quote(key)
	}
	return key
}
