package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies"
)

// GrantRequest asks for one grant.
type GrantRequest struct {
	Name string        // POLICY/GRANT
	TTL  time.Duration // 0: the policy's
	// Accept is asked, before anything is made, whether a credential with these
	// values can be delivered; nil accepts. See issuers.Description.Values.
	Accept func(values map[string]bool) error
}

// Exchanged is what an exchange brought.
type Exchanged struct {
	SessionID    string
	SessionToken issuers.Secret
	ExpiresAt    time.Time // of the session
	Credentials  []Credential
	Patterns     []string // what else must not appear in a log (RE2)
}

// Credential is one minted credential.
type Credential struct {
	Grant, LeaseID, Issuer, Kind string
	Revocation                   issuers.Revocation
	ExpiresAt                    time.Time
	Renewable                    bool
	Values                       []issuers.Value
	Env                          map[string]string // environment variable → name of the value
}

// order is one grant of an exchange on its way to a credential.
type order struct {
	grant    *policies.Grant
	issuer   Issuer
	about    issuers.Description
	env      map[string]string // value name → environment variable
	lease    leases.NewLease
	response *issuers.IssueResponse
}

func (o *order) name() string { return o.grant.Policy + "/" + o.grant.Name }

// ExchangeRequest is one exchange as it is asked for.
type ExchangeRequest struct {
	Token     any // JobToken or SessionToken
	Grants    []GrantRequest
	RequestID string     // by which the decision is found again; "": a new one
	RemoteIP  netip.Addr // who sent it; the zero Addr where it isn't known
}

// Exchange turns a job token, or the token of a session, into credentials: all
// of the grants asked for, or none. Whatever error it returns, nothing stays
// alive that nobody will take back.
func (b *Broker) Exchange(ctx context.Context, request ExchangeRequest) (*Exchanged, error) {
	if err := checkRequest(request.Grants); err != nil {
		return nil, err
	}
	caller, err := b.identify(ctx, request.Token)
	if err != nil {
		return nil, err
	}
	if caller.request = request.RequestID; caller.request == "" {
		caller.request = ids.New(ids.Request, b.config.Store.Now())
	}
	caller.ip = request.RemoteIP.Unmap()
	orders, err := b.decide(ctx, caller, request.Grants)
	if err != nil {
		return nil, err
	}
	secret := issuers.Generate(issuers.SessionToken)
	reservation := &leases.Reservation{Session: caller.session, Joined: caller.held != nil, Token: leases.Token{
		Hash: b.config.SessionTokens.Sum(sessionTokenDomain, []byte(secret.Reveal())), KeyID: b.config.SessionTokens.KeyID(),
		Grants: grantNames(orders),
	}, RequestID: caller.request, IP: shownIP(caller.ip)}
	free := !slices.ContainsFunc(orders, func(o *order) bool { return !o.about.SideEffectFree })

	// A session that is joined may end before the leases that we thought of: once more, within it.
	ends := caller.session.ExpiresAt
	for {
		if !earlier(ends, ends).After(b.config.Store.Now()) {
			return nil, &oidc.Error{Reason: oidc.ReasonExpired, Detail: "the session of this token has ended"}
		}
		if err := b.schedule(reservation, orders, ends, free); err != nil {
			return nil, err
		}
		if free {
			err = b.issueThenReserve(ctx, reservation, orders)
		} else {
			err = b.reserveThenIssue(ctx, reservation, orders)
		}
		var sooner *leases.SessionEndsError
		if !errors.As(err, &sooner) || !sooner.At.Before(ends) {
			break
		}
		ends = sooner.At.UTC()
	}
	if err != nil {
		return nil, err
	}
	return answer(secret, reservation, orders), nil
}

func checkRequest(wanted []GrantRequest) error {
	if len(wanted) == 0 {
		return &RequestError{Detail: "no grant was asked for: name at least one, as POLICY/GRANT"}
	}
	seen := map[string]bool{}
	for _, w := range wanted {
		if seen[w.Name] {
			return &RequestError{Detail: fmt.Sprintf("grant %q is asked for twice", w.Name)}
		}
		seen[w.Name] = true
	}
	return nil
}

// asking is who asks, whichever token it came with.
type asking struct {
	identity policies.Identity
	session  leases.Session // opened by this exchange, or joined
	held     *leases.Held   // what a session token stands for; nil for a job token
	request  string         // the request's id
	ip       netip.Addr     // who sent it
	digest   string         // of the set that decides
}

func (b *Broker) identify(ctx context.Context, token any) (*asking, error) {
	now := b.config.Store.Now()
	switch token := token.(type) {
	case JobToken:
		id, err := b.config.Verifier.Verify(ctx, string(token))
		if err != nil {
			return nil, err
		}
		claims, err := json.Marshal(id.Claims)
		if err != nil {
			return nil, fmt.Errorf("encoding claims: %w", err)
		}
		provider, _ := b.config.Verifier.Provider(id.Provider)
		return &asking{
			identity: policies.Identity{Provider: id.Provider, ProviderType: provider.Type, Subject: id.Subject, Claims: id.Claims, Expiry: id.Expiry},
			session: leases.Session{
				ID: ids.New(ids.Session, now), Provider: id.Provider, Issuer: id.Issuer, TokenDigest: id.Digest, Subject: id.Subject,
				Claims: claims, OpenedAt: now, ExpiresAt: now.Add(min(provider.SessionTTL, maxSession)), TokenExpiresAt: id.Expiry,
			},
		}, nil
	case SessionToken:
		held, err := b.FindSession(ctx, token)
		if err != nil {
			return nil, err
		}
		if held.RevokedAt != nil || held.TokenRevoked || !now.Before(held.ExpiresAt) {
			return nil, &oidc.Error{Reason: oidc.ReasonExpired, Detail: "the session of this token has ended"}
		}
		identity, err := b.identityOf(&held.Session)
		if err != nil {
			return nil, err
		}
		return &asking{identity: identity, session: held.Session, held: held}, nil
	}
	return nil, &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this call takes a job token or a session token"}
}

// decodeClaims gives stored claims the types that a verified token has: whole
// numbers are int64.
func decodeClaims(stored []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(stored))
	decoder.UseNumber()
	var claims map[string]any
	if err := decoder.Decode(&claims); err != nil {
		return nil, fmt.Errorf("decoding stored claims: %w", err)
	}
	typed, _ := typeNumbers(claims).(map[string]any)
	return typed, nil
}

func typeNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if whole, err := v.Int64(); err == nil {
			return whole
		}
		fraction, _ := v.Float64()
		return fraction
	case map[string]any:
		for k := range v {
			v[k] = typeNumbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = typeNumbers(v[i])
		}
	}
	return v
}

// decide asks the policies for each grant, all on the same set.
func (b *Broker) decide(ctx context.Context, caller *asking, wanted []GrantRequest) ([]*order, error) {
	set := b.config.Policies()
	caller.digest = set.Digest()
	orders := make([]*order, 0, len(wanted))
	for _, w := range wanted {
		if caller.held != nil && !slices.Contains(caller.held.Grants, w.Name) {
			return nil, &policies.Denial{Code: policies.CodeNotAllowed, Grant: w.Name, Detail: "not among the grants that this session token was made with"}
		}
		asked := policies.Request{Grant: w.Name, TTL: w.TTL, IP: caller.ip}
		grant, err := set.Decide(caller.identity, asked, b.config.Store.Now())
		if denial, ok := errors.AsType[*policies.Denial](err); ok {
			b.refused(ctx, caller, asked, denial)
		}
		if err != nil {
			return nil, err
		}
		issuer, ok := b.config.Issuers[grant.Issuer]
		if !ok {
			return nil, &IssueError{Grant: w.Name, err: fmt.Errorf("%w: no issuer %q is configured", issuers.ErrRejected, grant.Issuer)}
		}
		o := &order{grant: grant, issuer: issuer, about: issuer.Describe(grant.Role), env: map[string]string{}}
		maps.Copy(o.env, o.about.Env)
		maps.Copy(o.env, grant.Env)
		if w.Accept != nil {
			if err := w.Accept(o.about.Values); err != nil {
				return nil, err
			}
		}
		orders = append(orders, o)
	}
	return orders, checkEnv(orders)
}

func checkEnv(orders []*order) error {
	takenBy := map[string]string{}
	for _, o := range orders {
		for _, name := range o.env {
			if other, taken := takenBy[name]; taken {
				return &RequestError{Detail: fmt.Sprintf("grants %s and %s would both set %s: rename one with `env:` in its policy, or ask for them one at a time", other, o.name(), name)}
			}
			takenBy[name] = o.name()
		}
	}
	return nil
}

// schedule sets every end once, by the database's clock. JWT `exp`, `VALID UNTIL`
// and the like derive from it.
func (b *Broker) schedule(r *leases.Reservation, orders []*order, sessionEnds time.Time, issued bool) error {
	now := b.config.Store.Now()
	r.Now = now
	r.Leases = make([]leases.NewLease, len(orders))
	deadline := now.Add(b.config.IssueTime)
	for i, o := range orders {
		g := o.grant
		ttl := g.TTL
		if ttl == 0 {
			ttl = o.about.DefaultTTL
		}
		whole := ttl // what a renewal gives
		if g.AskedTTL > 0 {
			ttl = min(ttl, g.AskedTTL)
		}
		ends := sessionEnds
		if !g.Until.IsZero() {
			ends = earlier(ends, g.Until)
			if ends.Sub(now) < time.Second {
				return &EndsTooSoonError{Grant: o.name(), Until: ends}
			}
		}
		expires := earlier(now.Add(ttl), ends)
		latest := earlier(now.Add(max(g.MaxTTL, ttl)), ends)
		_, renewer := o.issuer.Issuer.(issuers.Renewer)
		o.lease = leases.NewLease{
			ID: ids.New(ids.Lease, now), Policy: g.Policy, Grant: g.Name, Job: g.Job, PolicyDigest: g.Digest,
			Issuer: g.Issuer, Role: g.Role, Kind: o.about.Kind, Target: o.issuer.Target, Revocation: o.about.Revocation,
			ExpiresAt: expires, MaxExpiresAt: latest, TTL: whole, AskedTTL: g.AskedTTL, Renewable: renewer && latest.After(expires),
			IssueDeadline: deadline, SettledAt: deadline.Add(o.about.IssueTimeout), MaxActive: g.MaxActive, Rules: rules(g), Issued: issued,
		}
		r.Leases[i] = o.lease
	}
	return nil
}

// earlier cuts to whole seconds, which is all that a JWT can say.
func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		a = b
	}
	return a.Truncate(time.Second)
}

func rules(g *policies.Grant) []leases.Rule {
	list := make([]leases.Rule, len(g.Redact))
	for i, pattern := range g.Redact {
		sum := sha256.Sum256([]byte(g.Policy + "\x00" + g.Name + "\x00" + pattern))
		list[i] = leases.Rule{ID: hex.EncodeToString(sum[:8]), Policy: g.Policy, Grant: g.Name, Pattern: pattern}
	}
	return list
}

// issueThenReserve is for credentials that nothing outside knows of: signed
// first, on record with one commit, handed out after it.
func (b *Broker) issueThenReserve(ctx context.Context, r *leases.Reservation, orders []*order) error {
	b.config.Checkpoint("before_reserve")
	for i, o := range orders {
		if err := b.issue(ctx, r, o); err != nil {
			return err
		}
		r.Leases[i].Fingerprints = b.fingerprints(o.response)
	}
	if err := b.config.Store.Reserve(ctx, r); err != nil {
		return err
	}
	b.config.Checkpoint("after_activate")
	return nil
}

// reserveThenIssue is for everything else. The order is what the promise rests
// on: nothing is made that isn't on record.
func (b *Broker) reserveThenIssue(ctx context.Context, r *leases.Reservation, orders []*order) error {
	b.config.Checkpoint("before_reserve")
	if err := b.config.Store.Reserve(ctx, r); err != nil {
		return err
	}
	b.config.Checkpoint("after_reserve")
	activation := &leases.Activation{Actor: leases.JobActor(r.Session.Provider, r.Session.Subject)}
	for _, o := range orders {
		if err := b.issue(ctx, r, o); err != nil {
			b.undo(ctx, r, orders, "could not be issued")
			return err
		}
		activation.Leases = append(activation.Leases, leases.Minted{ID: o.lease.ID, Handle: o.response.Handle, Fingerprints: b.fingerprints(o.response)})
	}
	b.config.Checkpoint("before_activate")
	activation.Now = b.config.Store.Now()
	if err := b.config.Store.Activate(ctx, activation); err != nil {
		b.undo(ctx, r, orders, "could not be put on record")
		return err
	}
	b.config.Checkpoint("after_activate")
	return nil
}

var errPanicked = errors.New("the issuer panicked")

func (b *Broker) issue(ctx context.Context, r *leases.Reservation, o *order) (err error) {
	defer func() {
		// The value of a panic may hold anything: it is not repeated.
		if recover() != nil {
			err = &IssueError{Grant: o.name(), err: errPanicked}
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, b.config.IssueTime, fmt.Errorf("issuer %s took longer than %s", o.grant.Issuer, b.config.IssueTime))
	defer cancel()
	response, err := o.issuer.Issue(ctx, &issuers.IssueRequest{
		Lease: issuers.Lease{
			Installation: b.config.Installation, Tenant: b.config.Tenant, ID: o.lease.ID, Policy: o.grant.Policy, Grant: o.grant.Name, Role: o.grant.Role,
			IssuedAt: r.Now, ExpiresAt: o.lease.ExpiresAt, IssueDeadline: o.lease.IssueDeadline,
		},
		Parameters: o.grant.Parameters,
	})
	if err != nil {
		return &IssueError{Grant: o.name(), OwnKey: o.about.SideEffectFree && errors.Is(err, issuers.ErrUnavailable), err: err}
	}
	o.response = response
	return nil
}

// undo gives everything of a failed exchange to the revoker, the caller's
// context or not. Where even that can't be written, what was minted is revoked
// from here, and the lease, still issuing, comes to the revoker by its deadline.
func (b *Broker) undo(ctx context.Context, r *leases.Reservation, orders []*order, reason string) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), undoTimeout, errors.New("undoing a failed exchange took too long"))
	defer cancel()
	leaseIDs := make([]string, len(orders))
	for i, o := range orders {
		leaseIDs[i] = o.lease.ID
	}
	_, err := b.config.Store.BeginRevoke(ctx, leaseIDs, leases.Why{Actor: "daypassd", Reason: reason})
	if err == nil {
		for _, o := range orders {
			b.config.Notify(o.grant.Issuer)
		}
		return
	}
	b.config.Logger.ErrorContext(ctx, "a failed exchange could not be written down; revoking what it made from here", "error", err, "leases", leaseIDs)
	for _, o := range orders {
		if o.response == nil {
			continue
		}
		named := issuers.Lease{
			Installation: b.config.Installation, Tenant: b.config.Tenant, ID: o.lease.ID, Policy: o.grant.Policy, Grant: o.grant.Name, Role: o.grant.Role,
			IssuedAt: r.Now, ExpiresAt: o.lease.ExpiresAt, IssueDeadline: o.lease.IssueDeadline,
		}
		if _, err := o.issuer.Revoke(ctx, &issuers.RevokeRequest{Lease: named, Handle: o.response.Handle}); err != nil {
			b.config.Logger.ErrorContext(ctx, "revoking failed; the revoker will come to it", "error", err, "lease", o.lease.ID)
		}
	}
}

// minFingerprintBits is how much nobody must be able to guess of a value before
// its hash may be kept.
const minFingerprintBits = 128

func (b *Broker) fingerprints(r *issuers.IssueResponse) []leases.Fingerprint {
	var prints []leases.Fingerprint
	for _, v := range r.Values {
		if v.Sensitive && v.RandomBits >= minFingerprintBits {
			prints = append(prints, leases.Fingerprint{
				Sum: b.config.Fingerprints.Sum(fingerprintDomain, []byte(v.Value.Reveal())), Field: v.Name,
				KeyID: b.config.Fingerprints.KeyID(), Scheme: fingerprintScheme,
			})
		}
	}
	return prints
}

const fingerprintScheme = "whole value " + keys.SchemeHMAC

func grantNames(orders []*order) []string {
	names := make([]string, len(orders))
	for i, o := range orders {
		names[i] = o.name()
	}
	return names
}

func answer(secret issuers.Secret, r *leases.Reservation, orders []*order) *Exchanged {
	out := &Exchanged{SessionID: r.SessionID, SessionToken: secret, ExpiresAt: r.SessionExpiresAt, Patterns: []string{issuers.GeneratedPattern}}
	for _, o := range orders {
		c := Credential{
			Grant: o.name(), LeaseID: o.lease.ID, Issuer: o.grant.Issuer, Kind: o.about.Kind, Revocation: o.about.Revocation,
			ExpiresAt: o.lease.ExpiresAt, Renewable: o.lease.Renewable && earlier(o.lease.MaxExpiresAt, r.SessionExpiresAt).After(o.lease.ExpiresAt),
			Values: o.response.Values, Env: map[string]string{},
		}
		for _, v := range o.response.Values {
			if name := o.env[v.Name]; name != "" {
				c.Env[name] = v.Name
			}
		}
		out.Credentials = append(out.Credentials, c)
		for _, pattern := range o.grant.Redact {
			if !slices.Contains(out.Patterns, pattern) {
				out.Patterns = append(out.Patterns, pattern)
			}
		}
	}
	return out
}
