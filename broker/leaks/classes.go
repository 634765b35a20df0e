package leaks

// Classes of bytes, each a bit.
const (
	base62 = 1 << iota
	base64Class
	hexClass
	introducer // of an escape
)

// classes says which classes a byte belongs to.
var classes = func() (table [256]uint8) { //nolint:gochecknoglobals // a table that doesn't change
	for b := range table {
		switch c := byte(b); {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			table[b] = base62 | base64Class | hexClass
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			table[b] = base62 | base64Class
		case c == '+', c == '/', c == '-', c == '_':
			table[b] = base64Class
		case c == '%', c == '\\', c == '&', c == esc:
			table[b] = introducer
		}
	}
	return table
}()

const esc = 0x1b
