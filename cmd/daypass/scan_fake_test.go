package main

import (
	"bytes"
	"io"
	"net/http"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leaks"
)

// otherShape is a value that only the broker can find.
const otherShape = "eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl"

// leakRoutes answers which leases' secrets stand in a text: passwords are those of
// lse_1, session tokens of ses_1, and other tokens unknown.
func leakRoutes(mux *http.ServeMux) {
	set := leaks.NewAnchors()
	if err := set.Add(leaks.Anchor{Window: [leaks.Window]byte([]byte(otherShape[26:])), Offset: 26, Length: len(otherShape), Ref: 1}); err != nil {
		panic(err)
	}
	finder := leaks.New(leaks.Config{Tokens: true, Encoded: true, Anchors: set})
	mux.HandleFunc("POST "+api.PathLeaks, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+adminToken {
			refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not for you"})
			return
		}
		answer := api.LeaksResponse{Leaks: []api.Leak{}}
		stream := finder.Stream(func(h leaks.Hit) error {
			leak := api.Leak{Kind: "unknown_token", Offset: h.Offset, Length: h.Length, Form: h.Form}
			switch {
			case h.Token == 'p':
				leak.Kind, leak.LeaseID, leak.Grant, leak.Live, leak.IssuedAt, leak.Run = "postgres", "lse_1", "payments/deploy-db", true, &issued, "https://ci.example.com/run/7"
				leak.Revoked = r.URL.Query().Get("revoke") == "true"
			case h.Token == 's':
				leak.Kind, leak.SessionID, leak.Subject = "session_token", "ses_1", "repo:acme/pay\x1b[2J"
			case h.Ref == 1 && string(h.Value) == otherShape:
				leak.Kind, leak.LeaseID = "jwt", "lse_2"
			}
			answer.Leaks = append(answer.Leaks, leak)
			return nil
		})
		body, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = stream.Write(body)
		}
		if err == nil {
			err = stream.Close()
		}
		if err != nil {
			panic(err)
		}
		answer.Bytes = int64(len(body))
		answer.Truncated = bytes.Contains(body, []byte("TOO MANY"))
		if bytes.Contains(body, []byte("WRONG")) {
			answer.Leaks = []api.Leak{{Offset: 1 << 40}}
		}
		reply(w, 200, answer)
	})
}
