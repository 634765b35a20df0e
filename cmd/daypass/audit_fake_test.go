package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/daypass/daypass/broker/api"
	auditlog "github.com/daypass/daypass/broker/audit/log"
)

// fakeLog is an audit log of six events, of which the fake sends two at a time.
type fakeLog struct {
	records []*auditlog.Record
	notes   map[int64]string
	key     *auditlog.Key
	files   map[string]string
}

const fakeOrigin = "daypass-audit/0123456789ab"

type fakeSigner struct{ crypto.Signer }

func (s fakeSigner) SignContext(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.Sign(rand.Reader, digest, opts)
}

func newFakeLog() (*fakeLog, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	l := &fakeLog{notes: map[int64]string{}}
	var otherKey *auditlog.Key
	if l.key, err = auditlog.NewKey(fakeOrigin, private.Public()); err != nil {
		return nil, err
	}
	if otherKey, err = auditlog.NewKey(fakeOrigin, other.Public()); err != nil {
		return nil, err
	}
	var tree auditlog.Tree
	for n := range int64(6) {
		body := fmt.Sprintf(`{"id":"evt_%d","installation":"0123456789ab","subject":"lse_1","count":%d,"actor":"daypassd"}`, n, n+1)
		leaf := auditlog.LeafHash([]byte(body))
		l.records = append(l.records, &auditlog.Record{Seq: n, ID: fmt.Sprintf("evt_%d", n), Leaf: hex.EncodeToString(leaf[:]), Body: &body})
		tree.Append(leaf, nil)
		c := auditlog.Checkpoint{Origin: fakeOrigin, Size: tree.Size(), Root: tree.Root()}
		if n%2 == 1 {
			if l.notes[c.Size], err = c.Sign(context.Background(), fakeSigner{private}); err != nil {
				return nil, err
			}
		}
	}
	forked, err := (&auditlog.Checkpoint{Origin: fakeOrigin, Size: 3, Root: tree.Root()}).Sign(context.Background(), fakeSigner{private})
	if err != nil {
		return nil, err
	}
	l.files = map[string]string{
		"audit.pub": l.key.String() + "\n", "other.pub": otherKey.String() + "\n", "kept": l.notes[2] + "\n" + l.notes[4], "forked": forked,
	}
	return l, nil
}

func (l *fakeLog) write(dir string) error {
	for name, text := range l.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (l *fakeLog) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET "+api.PathAuditCheckpoint, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, l.notes[6])
	})
	mux.HandleFunc("GET "+api.PathAuditExport, func(w http.ResponseWriter, r *http.Request) {
		from, err := strconv.ParseInt(r.URL.Query().Get("from"), 10, 64)
		if err != nil || from > 6 {
			refuse(w, api.Problem{Status: 400, Code: api.CodeInvalidRequest, Detail: "the audit log has no such numbers: it has 6"})
			return
		}
		var before auditlog.Tree
		for _, record := range l.records[:from] {
			hash, _ := hex.DecodeString(record.Leaf)
			before.Append(auditlog.Hash(hash), nil)
		}
		lines := []*auditlog.Line{{Header: auditlog.NewHeader(fakeOrigin, &before)}}
		to := min(from+2, 6)
		for _, record := range l.records[from:to] {
			lines = append(lines, &auditlog.Line{Record: record})
			if note := l.notes[record.Seq+1]; note != "" {
				lines = append(lines, &auditlog.Line{Checkpoint: note})
			}
		}
		if r.Header.Get("Authorization") != "Bearer "+adminToken+"-that-breaks-off" {
			lines = append(lines, &auditlog.Line{End: &auditlog.End{Size: to}})
		}
		var out bytes.Buffer
		for _, line := range lines {
			text, _ := line.Encode()
			out.Write(text)
		}
		_, _ = out.WriteTo(w)
	})
}
