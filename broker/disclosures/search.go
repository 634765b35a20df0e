package disclosures

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/leaks"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// The kinds of what is found.
const (
	KindLease        = "lease"
	KindSessionToken = "session_token"
	KindAdminToken   = "admin_token"
	KindUnknownToken = "unknown_token"
)

const (
	// MaxFindings is how much one search tells of.
	MaxFindings = 10_000
	// maxUnknown is how many tokens that nobody knows it tells of: anybody can make
	// some up, and they must not stand in the way of others.
	maxUnknown = 1000
	// maxLookups is how many different values one search looks up, and maxOwnLookups
	// one by a session.
	maxLookups    = 200_000
	maxOwnLookups = 20_000
	// perBatch is how many are looked up at once.
	perBatch = 250
	// MaxSource bounds where something is said to have been found, in bytes.
	MaxSource = 200
)

// Finding is one value that was found.
type Finding struct {
	Kind    string
	Offset  int64  // in the stream, of the first place
	Length  int    // as it is written there
	Form    string // how it was written; "" as it is
	LeaseID string
	Lease   *leases.Lease // nil where nothing is known of it any more
	Field   string
	Leases  int             // how many of the last hundred leases got the value
	Session *leases.Session // of a session token; of a lease, where it is on record
	Admin   *admin.Token
	Run     string // where the provider shows the job
	Live    bool   // it works somewhere
	Revoked bool   // by this search, or it was before

	sources []string        // where it is said to have been found
	value   [32]byte        // its keyed hash
	shaped  bool            // it has the broker's own shape
	holders []*leases.Lease // those on record that got it
	token   *leases.Held    // of a session token
}

// Search is one search.
type Search struct {
	Scope

	// Source is where the text is from, as the caller says: see [CleanSource].
	Source string
	// Revoke takes back whatever is found.
	Revoke bool
}

// Report is what a search found, in the order of its batches.
type Report struct {
	Findings []*Finding
	Bytes    int64
	// Truncated: there is more than is told, or than was looked up.
	Truncated bool
}

// CleanSource makes a text fit for an audit event: printable, and not too long.
func CleanSource(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if len(text) > MaxSource {
		text = strings.ToValidUTF8(text[:MaxSource], "")
	}
	return strings.TrimSpace(text)
}

// Search reads a text to its end and says what stands in it. With an error of the
// reader, what was found before is revoked all the same, where that was asked for.
func (s *Service) Search(ctx context.Context, search Search, text io.Reader) (*Report, error) {
	end, err := s.begin(&search.Scope)
	if err != nil {
		return nil, err
	}
	defer end()
	r := &run{service: s, search: &search, ctx: ctx, source: search.Source, report: &Report{}, seen: map[[33]byte]struct{}{}, most: maxLookups}
	config := leaks.Config{Tokens: true, Encoded: true}
	if search.Session != nil {
		r.most = maxOwnLookups
		config.Anchors, _, err = s.own(ctx, search.Session)
		if err == nil {
			r.among, err = s.leasesOf(ctx, search.Session)
		}
	} else {
		config.Anchors, err = s.known.get(ctx)
	}
	if err != nil {
		return nil, err
	}
	stream := leaks.New(config).Stream(r.hit)
	_, err = io.Copy(stream, text)
	r.report.Bytes = stream.Bytes()
	if err == nil {
		err = stream.Close()
	}
	// What is waiting is looked up whatever became of the reader.
	if looking := r.look(); err == nil || errors.Is(err, errFull) {
		err = looking
	}
	if errors.Is(err, errFull) {
		err = nil
	}
	r.report.Truncated = r.report.Truncated || stream.Dropped() > 0
	return r.report, err
}

func (s *Service) leasesOf(ctx context.Context, held *leases.Held) ([]string, error) {
	list, err := s.config.Store.List(ctx, leases.Filter{Session: held.ID, SessionToken: held.TokenHash[:], Limit: maxOwn})
	own := make([]string, len(list)) // not nil, which would stand for everybody's
	for i, l := range list {
		own[i] = l.ID
	}
	return own, err
}

// errFull ends a search that has found or looked up as much as it may.
var errFull = errors.New("as much was found as is told")

// run is one search under way.
type run struct {
	service *Service
	search  *Search
	ctx     context.Context //nolint:containedctx // of one call: the finder's callbacks have no place for it
	source  string          // of what is found next
	report  *Report
	among   []string // leases of the session; nil: everybody's
	most    int      // values that are looked up
	unknown int
	waiting []*Finding
	// What was found already, by the token's letter and the hash: of a text, and of a
	// report.
	seen     map[[33]byte]struct{}
	reported map[[33]byte]*Finding
}

// finding is what the finder found, as a keyed hash, and a key by which it is known
// again.
func (r *run) finding(h leaks.Hit) (*Finding, [33]byte) {
	f := &Finding{Offset: h.Offset, Length: h.Length, Form: h.Form, shaped: h.Token != 0, sources: []string{r.source}}
	config := &r.service.config
	switch h.Token {
	case issuers.SessionToken:
		f.Kind, f.value = KindSessionToken, config.SessionTokens.Sum(leases.TokenDomain, h.Value)
	case issuers.RevocationToken:
		// Where both stand in a text, they are one find: so the key says no more.
		h.Token = issuers.SessionToken
		f.Kind, f.value = KindSessionToken, config.SessionTokens.Sum(leases.TokenDomain, []byte(leases.SessionTokenOf(string(h.Value), config.SessionTokens).Reveal()))
	case issuers.VaultToken:
		f.Kind, f.value = KindSessionToken, config.SessionTokens.Sum(leases.VaultTokenDomain, h.Value)
	case issuers.AdminToken:
		f.Kind, f.value = KindAdminToken, config.Admins.Sum(h.Value)
	default:
		f.Kind, f.value = KindLease, config.Prints.Sum(h.Value)
	}
	key := [33]byte{h.Token}
	copy(key[1:], f.value[:])
	return f, key
}

// hit takes what the finder found in a text.
func (r *run) hit(h leaks.Hit) error {
	f, key := r.finding(h)
	if _, already := r.seen[key]; already {
		return nil
	}
	if len(r.seen) >= r.most {
		r.report.Truncated = true
		return errFull
	}
	r.seen[key] = struct{}{}
	if r.waiting = append(r.waiting, f); len(r.waiting) >= perBatch {
		return r.look()
	}
	return nil
}

// look looks up what is waiting, and does with it what is to be done.
func (r *run) look() error {
	batch := r.waiting
	r.waiting = nil
	if len(batch) == 0 {
		return nil
	}
	ctx, cancel := withTimeout(r.ctx)
	defer cancel()
	found, err := r.identify(ctx, batch)
	if err != nil {
		return err
	}
	if room := MaxFindings - len(r.report.Findings); len(found) > room {
		found, r.report.Truncated = found[:room], true
	}
	if r.search.Session == nil {
		if err := r.service.record(ctx, r.search, found); err != nil {
			return err
		}
	}
	if r.search.Revoke {
		if err := r.service.takeBack(ctx, r.search, found); err != nil {
			return fmt.Errorf("revoking what was found: %w", err)
		}
	}
	r.report.Findings = append(r.report.Findings, found...)
	if len(r.report.Findings) >= MaxFindings {
		r.report.Truncated = true
		return errFull
	}
	return nil
}
