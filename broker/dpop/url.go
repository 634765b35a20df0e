package dpop

import (
	"errors"
	"net/url"
	"strings"
)

var errURL = errors.New("no absolute http or https URL")

// Normalize brings a URL to the form in which two that mean the same are the same:
// the syntax-based and scheme-based normalization of RFC 3986, sections 6.2.2 and
// 6.2.3. Query and fragment are left out (RFC 9449, section 4.3).
func Normalize(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" || u.User != nil {
		return "", errURL // url.Parse's error repeats the text
	}
	scheme, host := strings.ToLower(u.Scheme), lower(u.Host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	default:
		return "", errURL
	}
	host = strings.TrimSuffix(host, ":") // an empty port is none
	// url.Parse has decoded what was encoded in it.
	if host == "" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("%/?#@\\", r) }) {
		return "", errURL
	}
	return scheme + "://" + host + dots(percent(u.EscapedPath())), nil
}

// lower is strings.ToLower for ASCII alone: other letters of a host stay as they are.
func lower(host string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, host)
}

// percent decodes what needn't be encoded and writes the rest in upper case (RFC
// 3986, sections 6.2.2.1 and 6.2.2.2). It is once: what a decoded one would begin
// is not decoded again, since % is encoded itself.
func percent(path string) string {
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] != '%' || len(path)-i < 3 {
			out.WriteByte(path[i])
			continue
		}
		code := strings.ToUpper(path[i : i+3])
		high, low := strings.IndexByte(hex, code[1]), strings.IndexByte(hex, code[2])
		i += 2
		if c := byte(high<<4 | low); high >= 0 && low >= 0 && unreserved(c) { //nolint:gosec // two digits below 16 fit a byte
			out.WriteByte(c)
			continue
		}
		out.WriteString(code)
	}
	return out.String()
}

const hex = "0123456789ABCDEF"

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// dots takes the segments . and .. out (RFC 3986, section 5.2.4). An empty path is /.
func dots(path string) string {
	var out []string
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case ".", "..":
			if segment == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, segment)
		}
	}
	return "/" + strings.Join(out, "/")
}
