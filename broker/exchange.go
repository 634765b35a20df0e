package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/redact"
	"github.com/daypass/daypass/broker/switches"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies"
)

// GrantRequest asks for one grant.
type GrantRequest struct {
	Name string        // POLICY/GRANT
	TTL  time.Duration // 0: the policy's
	// What the job's certificate is to be for; "" where it sent nothing. See issuers.IssueRequest.
	CSR, PublicKey string
	// Accept is asked, before anything is made, whether a credential with these
	// values can be delivered; nil accepts. See issuers.Description.Values.
	Accept func(values map[string]bool) error
	// Kinds are those that the grant may be of, else the error is a KindError; nil: any.
	Kinds []string
	// Bound says that the credential must be one that is bound to the key of the request.
	Bound bool
}

// Exchanged is what an exchange brought.
type Exchanged struct {
	SessionID    string
	SessionToken issuers.Secret
	Bound        bool // to the key of the request
	// RevocationToken gives back what the session token obtained, and no more. It is
	// bound to no key.
	RevocationToken issuers.Secret
	ExpiresAt       time.Time // of the session
	Credentials     []Credential
	Patterns        []string // what else must not appear in a log (RE2)
}

// Credential is one minted credential.
type Credential struct {
	Grant, LeaseID, Issuer, Kind string
	Revocation                   issuers.Revocation
	ExpiresAt                    time.Time
	Renewable                    bool
	Values                       []issuers.Value
	Env                          map[string]string // environment variable → name of the value
	Scopes                       []string          // what it may do, as of now; nil: the kind has none
	Bound                        bool              // it is a token, and bound to the key of the request
}

// order is one grant of an exchange on its way to a credential.
type order struct {
	grant    *policies.Grant
	wanted   GrantRequest
	issuer   Issuer
	about    issuers.Description
	env      map[string]string // value name → environment variable
	lease    leases.NewLease
	response *issuers.IssueResponse
}

func (o *order) name() string { return o.grant.Policy + "/" + o.grant.Name }

// ExchangeRequest is one exchange as it is asked for.
type ExchangeRequest struct {
	Token  any // a JobToken, a SessionToken or a VaultToken
	Grants []GrantRequest
	// RetryKey is what the client calls this exchange by; "" when it doesn't. A
	// second one of the same token and key takes the first one's place.
	RetryKey  string
	RequestID string     // by which the decision is found again; "": a new one
	RemoteIP  netip.Addr // who sent it; the zero Addr where it isn't known
	// Admit runs the check of the token when it is its turn, and returns what that
	// returns, or an error of its own. A quick check waits for no provider's keys.
	// Nil: at once.
	Admit func(check func(quick bool) error) error
	// Prove is asked, once the token is known to be good, for the thumbprint of the key
	// that the sender has proved to have (RFC 9449): what is issued is bound to it. Held
	// is what a session token stands for, nil for a job token. Nil, or a nil answer:
	// nothing is bound, and a token that is bound itself is refused.
	Prove func(held *leases.Held) (thumbprint []byte, err error)
}

// Exchange turns a job token, or the token of a session, into credentials: all
// of the grants asked for, or none. Whatever error it returns, nothing stays
// alive that nobody will take back.
func (b *Broker) Exchange(ctx context.Context, request *ExchangeRequest) (*Exchanged, error) {
	if err := checkRequest(request.Grants); err != nil {
		return nil, err
	}
	// Before the token, which is judged by a clock too, and before anything is signed.
	if err := b.config.Store.CheckClock(); err != nil {
		return nil, err
	}
	caller, err := b.admit(ctx, request)
	if err != nil {
		return nil, err
	}
	orders, err := b.decide(ctx, caller, request.Grants)
	if err != nil {
		return nil, err
	}
	made, token := b.sessionToken(caller, orders)
	reservation := &leases.Reservation{
		Session: caller.session, Joined: caller.held != nil, Once: caller.held == nil && b.config.Once[caller.session.Provider], Token: token,
		Retry: b.retry(caller, request), JobKey: caller.job, Whose: caller.whose, MaxPerJob: b.config.Limits.JobLeases, MaxPerTenant: b.config.Limits.TenantLeases,
		RequestID: caller.request, IP: shownIP(caller.ip),
	}
	if err := b.fulfil(ctx, reservation, orders); err != nil {
		if errors.Is(err, leases.ErrReusedJTI) {
			b.reusedJTI(ctx, reservation)
		}
		return nil, err
	}
	return answer(made, reservation, orders, b.config.Patterns()), nil
}

// admit says who asks, if they may ask now.
func (b *Broker) admit(ctx context.Context, request *ExchangeRequest) (caller *asking, err error) {
	check := func(quick bool) (err error) {
		if quick {
			ctx = oidc.WithoutWaiting(ctx)
		}
		if caller, err = b.identify(ctx, request.Token); err == nil {
			caller.thumbprint, err = request.prove(caller.held)
		}
		return err
	}
	if request.Admit == nil {
		err = check(false)
	} else {
		err = request.Admit(check)
	}
	if err != nil {
		return nil, err
	}
	if caller.request = request.RequestID; caller.request == "" {
		caller.request = ids.New(ids.Request, b.config.Store.Now())
	}
	caller.ip = request.RemoteIP.Unmap()
	if err := b.rates.take(caller); err != nil {
		return nil, err
	}
	return caller, b.config.Switches.Check(ctx, switches.Of{Provider: caller.session.Provider})
}

// tries is how often an exchange begins anew because of what it finds on record.
const tries = 4

// fulfil brings the orders to credentials, and the reservation on record.
func (b *Broker) fulfil(ctx context.Context, r *leases.Reservation, orders []*order) (err error) {
	free := !slices.ContainsFunc(orders, func(o *order) bool { return !o.about.SideEffectFree })
	ends := r.Session.ExpiresAt
	for range tries {
		if !earlier(ends, ends).After(b.config.Store.Now()) {
			return &oidc.Error{Reason: oidc.ReasonExpired, Detail: "the session of this token has ended"}
		}
		if err := b.schedule(r, orders, ends, free); err != nil {
			return err
		}
		if err := b.checkSwitches(ctx, r, orders); err != nil {
			return err
		}
		if free {
			err = b.issueThenReserve(ctx, r, orders)
		} else {
			err = b.reserveThenIssue(ctx, r, orders)
		}
		var sooner *leases.SessionEndsError
		switch {
		case errors.As(err, &sooner) && sooner.At.Before(ends):
			// A session that is joined may end before the leases that we thought of:
			// once more, within it.
			ends = sooner.At.UTC()
		case errors.Is(err, leases.ErrRetry):
			if err := b.supersede(ctx, r); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return err
}

// supersede hands what an earlier try of the same exchange obtained to the
// revoker, and doesn't wait for it.
func (b *Broker) supersede(ctx context.Context, r *leases.Reservation) error {
	ended, err := b.config.Store.Supersede(ctx, r)
	if err != nil {
		return err
	}
	for _, l := range ended {
		b.config.Notify(l.Issuer)
	}
	b.config.Checkpoint("after_supersede")
	return nil
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

// decide asks the policies for each grant, all on the same set.
func (b *Broker) decide(ctx context.Context, caller *asking, wanted []GrantRequest) ([]*order, error) {
	set := b.config.Policies()
	caller.digest = set.Digest()
	orders := make([]*order, 0, len(wanted))
	for _, w := range wanted {
		asked := policies.Request{Grant: w.Name, TTL: w.TTL, IP: caller.ip}
		grant, err := set.Decide(caller.identity, asked, b.config.Store.Now())
		if caller.held != nil && !slices.Contains(caller.held.Grants, w.Name) && (err != nil || !grant.Broad || caller.vault) {
			return nil, &policies.Denial{Code: policies.CodeNotAllowed, Grant: w.Name, Detail: "not among the grants that this session token was made with"}
		}
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
		o := &order{grant: grant, wanted: w, issuer: issuer, about: issuer.Describe(grant.Role), env: map[string]string{}}
		maps.Copy(o.env, o.about.Env)
		maps.Copy(o.env, grant.Env)
		if w.Kinds != nil && !slices.Contains(w.Kinds, o.about.Kind) {
			return nil, &KindError{Grant: w.Name, Kind: o.about.Kind}
		}
		if err := checkSent(w, o.about.Accepts); err != nil {
			return nil, err
		}
		if err := checkBound(w, &o.about, caller); err != nil {
			return nil, err
		}
		if w.Accept != nil {
			values := maps.Clone(o.about.Values)
			if w.CSR != "" || w.PublicKey != "" {
				delete(values, o.about.MadeKey)
			}
			if err := w.Accept(values); err != nil {
				return nil, err
			}
		}
		orders = append(orders, o)
	}
	return orders, checkEnv(orders)
}

// checkSent refuses what the grant has no use for, and what is missing.
func checkSent(w GrantRequest, accepts issuers.Accepts) error {
	for _, sent := range []struct {
		name, value   string
		taken, needed bool
	}{
		{"csr", w.CSR, accepts.CSR, accepts.CSRNeeded},
		{"public_key", w.PublicKey, accepts.PublicKey, accepts.PublicKeyNeeded},
	} {
		switch {
		case sent.value != "" && !sent.taken:
			return &RequestError{Detail: fmt.Sprintf("grant %s takes no %s: leave it out", w.Name, sent.name)}
		case sent.value == "" && sent.needed:
			return &RequestError{Detail: fmt.Sprintf("grant %s needs a %s: it certifies a key that the job has", w.Name, sent.name)}
		}
	}
	return nil
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
		if o.about.MaxTTL > 0 {
			ttl = min(ttl, o.about.MaxTTL)
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
			IssueDeadline: deadline, SettledAt: deadline.Add(o.about.IssueTimeout), MaxActive: g.MaxActive, MaxActivePerJob: g.MaxActivePerJob,
			Rules: rules(g), Issued: issued,
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
		list[i] = leases.GrantRule(g.Policy, g.Name, pattern)
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
		r.Leases[i].Fingerprints, r.Leases[i].SigningKey = b.fingerprints(o.response), o.response.SigningKey
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
		activation.Leases = append(activation.Leases, leases.Minted{ID: o.lease.ID, Handle: o.response.Handle, Fingerprints: b.fingerprints(o.response), SigningKey: o.response.SigningKey})
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
		Lease:      b.named(r, o),
		Parameters: o.grant.Parameters, CSR: o.wanted.CSR, PublicKey: o.wanted.PublicKey, Thumbprint: thumbprint(r, o),
	})
	if sent, ok := errors.AsType[*issuers.SentError](err); ok {
		return &RequestError{Detail: "grant " + o.name() + ": " + sent.Detail}
	}
	if err == nil {
		err = maskable(response)
	}
	if err != nil {
		return &IssueError{Grant: o.name(), OwnKey: o.about.SideEffectFree && errors.Is(err, issuers.ErrUnavailable), err: err}
	}
	o.response = response
	return nil
}

// maskable refuses a secret that no log could be kept clear of: masks in place of a
// value that stands in ordinary text would tell what it is.
func maskable(response *issuers.IssueResponse) error {
	for _, v := range response.Values {
		if value := v.Value.Reveal(); v.Sensitive && value != "" && redact.Common(value) {
			return fmt.Errorf("%w: its %s is too short or too common to be masked in a log (hint: give it at least %d bytes that are no word, date or number, or list the field under `visible`)",
				issuers.ErrRejected, v.Name, redact.MinValue)
		}
	}
	return nil
}

func (b *Broker) fingerprints(r *issuers.IssueResponse) []leases.Fingerprint {
	var prints []leases.Fingerprint
	for i := range r.Values {
		if fingerprint, kept := b.config.Prints.Of(&r.Values[i]); kept {
			prints = append(prints, fingerprint)
		}
	}
	return prints
}

func grantNames(orders []*order) []string {
	names := make([]string, len(orders))
	for i, o := range orders {
		names[i] = o.name()
	}
	return names
}

func answer(made sessionSecrets, r *leases.Reservation, orders []*order, patterns []string) *Exchanged {
	bound := r.Token.Thumbprint != nil
	out := &Exchanged{
		SessionID: r.SessionID, SessionToken: made.token, Bound: bound, RevocationToken: made.revocation, ExpiresAt: r.SessionExpiresAt,
		Patterns: append([]string{issuers.GeneratedPattern}, patterns...),
	}
	for _, o := range orders {
		c := Credential{
			Grant: o.name(), LeaseID: o.lease.ID, Issuer: o.grant.Issuer, Kind: o.about.Kind, Revocation: o.about.Revocation,
			ExpiresAt: o.lease.ExpiresAt, Renewable: o.lease.Renewable && earlier(o.lease.MaxExpiresAt, r.SessionExpiresAt).After(o.lease.ExpiresAt),
			Values: o.response.Values, Env: map[string]string{}, Bound: bound && o.about.Bindable,
		}
		if asked, ok := o.issuer.Issuer.(issuers.Introspected); ok {
			access, _ := asked.Access(o.grant.Role)
			c.Scopes = access.Scopes
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
