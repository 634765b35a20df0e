package redact

import (
	"encoding/json"
	"net/url"
	"strings"
)

// maxNesting is how deep fields of fields are looked for: a URL in a JSON object
// has a password.
const maxNesting = 3

// fields are the parts of a value that are secret by themselves: the password of a
// URL or of another connection string, and the strings of a JSON object or list
// that no one would call public.
func fields(value string) []string {
	trimmed := strings.TrimSpace(value)
	if strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[") {
		var tree any
		if json.Unmarshal([]byte(trimmed), &tree) == nil {
			return jsonStrings(nil, tree)
		}
	}
	list := assigned(nil, trimmed)
	_, rest, ok := strings.Cut(trimmed, "://")
	if !ok {
		rest = trimmed // user:password@tcp(host)/database
	}
	end := len(rest)
	if i := strings.IndexAny(rest, "/?#"); ok && i >= 0 {
		end = i
	}
	// A password may hold what should have been encoded: the last @ of the
	// authority ends it, and the first colon begins it.
	if at := strings.LastIndexByte(rest[:end], '@'); at >= 0 {
		list = userinfo(list, rest[:at], ok)
	}
	if at := strings.LastIndexByte(rest, '@'); at >= end {
		list = userinfo(list, rest[:at], ok)
	}
	return list
}

// tokenLength is from how many bytes on a user's name without a password is taken
// for a token.
const tokenLength = 20

// userinfo adds the password, or the name when it stands alone in a URL and is as
// long as a token.
func userinfo(list []string, info string, named bool) []string {
	_, secret, ok := strings.Cut(info, ":")
	if !ok && named && len(info) >= tokenLength {
		secret = info
	}
	if secret == "" || strings.ContainsAny(secret, " \n") {
		return list
	}
	return decoded(list, secret)
}

// decoded adds a value as it stands and as percent-encoding means it.
func decoded(list []string, value string) []string {
	list = append(list, value)
	if plain, err := url.PathUnescape(value); err == nil && plain != value {
		list = append(list, plain)
	}
	if plain, err := url.QueryUnescape(value); err == nil && plain != value {
		list = append(list, plain)
	}
	return list
}

// assigned adds what is assigned to a secret name: password=… in a query, in the
// words of libpq, or between the semicolons of ADO and JDBC.
func assigned(list []string, value string) []string {
	for i := range len(value) {
		if value[i] != '=' {
			continue
		}
		begin := strings.LastIndexAny(value[:i], "?&; \t\n,") + 1
		if !secretName(value[begin:i]) {
			continue
		}
		rest := value[i+1:]
		if rest != "" && strings.IndexByte(`'"`, rest[0]) >= 0 {
			if end := strings.IndexByte(rest[1:], rest[0]); end >= 0 {
				list = append(list, rest[1:end+1])
				continue
			}
		}
		if end := strings.IndexAny(rest, "&; \t\n"); end >= 0 {
			rest = rest[:end]
		}
		list = decoded(list, rest)
	}
	return list
}

// secretName says that what has this name is most likely a secret.
func secretName(name string) bool {
	name = strings.ToLower(strings.TrimSpace(name))
	for _, part := range []string{"pass", "pwd", "secret", "token", "key", "sig", "credential", "auth"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// publicName says that what has this name stands in logs for reasons of its own.
func publicName(name string) bool {
	name = strings.ToLower(name)
	for _, public := range []string{
		"type", "name", "user", "username", "host", "hostname", "port", "database", "dbname", "region", "account", "email", "project", "kind",
		"version", "issuer", "scope", "scopes", "audience", "domain", "alg", "kty", "use", "crv",
	} {
		if name == public || strings.HasSuffix(name, "_"+public) {
			return true
		}
	}
	return strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "_uri") || strings.HasSuffix(name, "universe_domain")
}

// jsonStrings adds all strings under a node. A URL is one only for the secrets in
// it.
func jsonStrings(list []string, node any) []string {
	switch node := node.(type) {
	case string:
		if strings.Contains(node, "://") && !strings.ContainsAny(node, "\n ") {
			return append(list, fields(node)...)
		}
		list = append(list, node)
	case []any:
		for _, child := range node {
			list = jsonStrings(list, child)
		}
	case map[string]any:
		for name, child := range node {
			if _, isString := child.(string); isString && publicName(name) && !secretName(name) {
				continue
			}
			list = jsonStrings(list, child)
		}
	}
	return list
}
