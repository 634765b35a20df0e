package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// shownToken is what a token says of itself: nothing of it is checked, and
// nothing of it is secret but the signature, which isn't kept.
type shownToken struct {
	Header map[string]any `json:"header,omitempty"`
	Claims map[string]any `json:"claims,omitempty"`
}

// readJWT reads a token's header and claims; what is no JWT has none.
func readJWT(token string) (shown shownToken) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return shown
	}
	for i, into := range []*map[string]any{&shown.Header, &shown.Claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(text, into) != nil {
			return shownToken{}
		}
	}
	return shown
}

// audiences is `aud`, which is one text or a list (RFC 7519 §4.1.3).
func (t shownToken) audiences() []string {
	switch aud := t.Claims["aud"].(type) {
	case string:
		return []string{aud}
	case []any:
		var list []string
		for _, a := range aud {
			if text, ok := a.(string); ok {
				list = append(list, text)
			}
		}
		return list
	}
	return nil
}

// when is a claim that is a time.
func (t shownToken) when(claim string) time.Time {
	seconds, ok := t.Claims[claim].(float64)
	if !ok || seconds < 0 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}
