package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

// diagnosis is what doctor finds. No member ever holds a token.
type diagnosis struct {
	OK     bool          `json:"ok"`
	CI     ciSeen        `json:"ci"`
	Token  tokenSeen     `json:"token"`
	Broker brokerSeen    `json:"broker"`
	Grants []grantAnswer `json:"grants,omitempty"`
	Advice []string      `json:"advice"`

	code int // the exit code
}

type ciSeen struct {
	Name      string         `json:"name"` // "" where none is known
	Title     string         `json:"title"`
	Variables []variableSeen `json:"variables"`
}

type variableSeen struct {
	Name string `json:"name"`
	Set  bool   `json:"set"`
}

type tokenSeen struct {
	From  string `json:"from,omitempty"`
	Error string `json:"error,omitempty"`
	shownToken
}

type brokerSeen struct {
	URL       string            `json:"url"`
	Reachable bool              `json:"reachable"`
	Ready     bool              `json:"ready"`
	Checks    map[string]string `json:"checks,omitempty"`
	Issuers   map[string]string `json:"issuers,omitempty"`
	Issuer    string            `json:"issuer,omitempty"` // what it calls itself
	Ahead     float64           `json:"clock_ahead_seconds"`
	Error     string            `json:"error,omitempty"`
}

type grantAnswer struct {
	Grant     string     `json:"grant"`
	Allowed   bool       `json:"allowed"`
	Code      api.Code   `json:"code,omitempty"`
	Reason    api.Reason `json:"reason,omitempty"`
	Detail    string     `json:"detail,omitempty"`
	Claims    []string   `json:"claims,omitempty"`
	RequestID string     `json:"request_id,omitempty"`
}

const (
	doctorTimeout = 90 * time.Second
	// clockTolerance is how far clocks may be apart before doctor says so; brokers
	// allow tokens a minute.
	clockTolerance = 30 * time.Second
	// anyGrant is asked for where none is named, to see what becomes of the token.
	anyGrant = "daypass-doctor/none"
)

func (p *program) doctorCommand() *cobra.Command {
	var grants []string
	var out *output
	cmd := &cobra.Command{
		Use:   "doctor [--grant GRANT]...",
		Short: "Say what stands between this job and its credentials",
		Long: `Doctor says which CI system it sees, where the job's token comes from and what it
says of itself (never the token), whether the broker can be reached and is ready,
whether the clocks agree, what the broker says to the token and to each --grant,
and what to change. Nothing is issued.

Exit codes: 0 all is well, 1 something is wrong, 2 a setting is missing or can't
be right, 3 the broker refuses the token or a grant.`,
		Example: `  daypass doctor
  daypass doctor --grant payments/deploy-db --output json`,
		Args: exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, grant := range grants {
				if policy, name, ok := strings.Cut(grant, "/"); !ok || policy == "" || name == "" || strings.Contains(name, "/") {
					return usage("%q is no grant: a grant is written POLICY/GRANT", grant)
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorTimeout)
			defer cancel()
			d := p.diagnose(ctx, grants)
			var err error
			if *out == outputJSON {
				err = p.printJSON(d)
			} else {
				err = d.print(p.stdout)
			}
			if err != nil {
				return fmt.Errorf("printing: %w", err)
			}
			if d.code != 0 {
				return &exit{code: d.code}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&grants, "grant", nil, "a grant to ask about, POLICY/GRANT; may be repeated")
	out = outputFlag(cmd)
	return cmd
}

// diagnose looks at everything, whatever of it is wrong.
func (p *program) diagnose(ctx context.Context, grants []string) *diagnosis {
	d := &diagnosis{Advice: []string{}, CI: seeCI()}
	token, from, err := p.findJobToken(ctx)
	d.Token.From = from
	if err != nil {
		d.Token.Error = clean(err.Error())
		d.wrong(exitCode(err), "get a token: %v", err)
	} else {
		d.Token.shownToken = readJWT(token)
		d.checkToken(p.setting(p.audience, "DAYPASS_AUDIENCE"), time.Now())
	}
	d.Broker.URL = p.setting(p.url, "DAYPASS_URL")
	c, err := p.connect()
	if err != nil {
		d.Broker.Error = clean(err.Error())
		d.wrong(exitCode(err), "name the broker: %v", err)
	} else if d.seeBroker(ctx, c); d.Broker.Reachable && d.Token.Error == "" {
		d.ask(ctx, c, token, grants)
	}
	d.OK = d.code == 0
	return d
}

// wrong notes what to change. The first exit code stands.
func (d *diagnosis) wrong(code int, format string, args ...any) {
	if d.code == 0 {
		d.code = code
	}
	d.Advice = append(d.Advice, clean(fmt.Sprintf(format, args...)))
}

func seeCI() ciSeen {
	ci := detectCI()
	if ci == nil {
		seen := ciSeen{Title: "no CI system that is known"}
		for _, name := range []string{variableJobToken, variableSigstore, variableWebIdentity} {
			seen.Variables = append(seen.Variables, variableSeen{name, os.Getenv(name) != ""})
		}
		return seen
	}
	seen := ciSeen{Name: ci.name, Title: ci.title}
	for _, name := range append(append([]string{ci.variable}, ci.leads...), append(ci.looks, variableJobToken)...) {
		seen.Variables = append(seen.Variables, variableSeen{name, os.Getenv(name) != ""})
	}
	return seen
}

// checkToken looks at what can be seen without the provider's keys.
func (d *diagnosis) checkToken(audience string, now time.Time) {
	t := d.Token.shownToken
	if t.Claims == nil {
		d.Token.Error = "it is no JWT"
		d.wrong(exitFailed, "give the job's OIDC token: what was found is no JWT (a session or admin token, or something else)")
		return
	}
	if end := t.when("exp"); !end.IsZero() && !end.After(now) {
		d.wrong(exitFailed, "get a new token: this one ended at %s, by this machine's clock", stamp(end))
	}
	if begin := t.when("nbf"); begin.After(now.Add(clockTolerance)) {
		d.wrong(exitFailed, "set this machine's clock: the token begins at %s only, by it", stamp(begin))
	}
	if audience != "" && !strings.Contains("\n"+strings.Join(t.audiences(), "\n")+"\n", "\n"+audience+"\n") {
		d.wrong(exitFailed, "have the token made for %s: its audience is %s", audience, strings.Join(t.audiences(), ", "))
	}
}

// seeBroker looks at what a broker shows to everybody.
func (d *diagnosis) seeBroker(ctx context.Context, c *client.Client) {
	b := &d.Broker
	seen, err := c.See(ctx, api.PathDiscovery)
	if err != nil {
		b.Error = clean(err.Error())
		d.wrong(exitFailed, "%s", explainConnection(err))
		return
	}
	b.Reachable, b.Ahead = true, seen.Ahead.Seconds()
	var self struct {
		Issuer string `json:"issuer"`
	}
	if seen.Status != http.StatusOK || json.Unmarshal(seen.Body, &self) != nil || self.Issuer == "" {
		b.Reachable = false
		b.Error = fmt.Sprintf("%s answers %d, and not as a broker does", api.PathDiscovery, seen.Status)
		d.wrong(exitFailed, "check the URL of the broker, and proxies on the way: something else answers there")
		return
	}
	b.Issuer = self.Issuer
	if seen.Ahead.Abs() > clockTolerance {
		d.wrong(exitFailed, "set the clocks: the broker's is %s from this machine's", seen.Ahead.Round(time.Second))
	}
	// Readiness may stand on a listener that only operators reach.
	ready, err := c.See(ctx, api.PathReady)
	if err != nil || json.Unmarshal(ready.Body, b) != nil || b.Checks == nil {
		b.Ready = true
		return
	}
	if !b.Ready {
		d.wrong(exitFailed, "tell whoever runs the broker: it is not ready: %s", notOK(b.Checks))
	}
	if text := notOK(b.Issuers); text != "" {
		d.Advice = append(d.Advice, clean("grants of these issuers may fail: "+text))
	}
}

func notOK(checks map[string]string) string {
	var list []string
	for _, name := range sortedNames(checks) {
		if checks[name] != "ok" {
			list = append(list, name+": "+checks[name])
		}
	}
	return strings.Join(list, ", ")
}

// explainConnection says what to change about a connection that isn't made.
func explainConnection(err error) string {
	if _, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		return "trust the broker's certificate: name its CA with --cacert or DAYPASS_CACERT (or a proxy on the way shows its own)"
	}
	if wrong, is := errors.AsType[x509.HostnameError](err); is {
		return "use a name that the broker's certificate has: " + strings.Join(wrong.Certificate.DNSNames, ", ")
	}
	if invalid, is := errors.AsType[x509.CertificateInvalidError](err); is && invalid.Reason == x509.Expired {
		return "tell whoever runs the broker that its certificate has ended, or set this machine's clock"
	}
	if _, is := errors.AsType[tls.RecordHeaderError](err); is || errors.Is(err, http.ErrSchemeMismatch) {
		return "check the port: what answers there does not speak TLS"
	}
	if _, is := errors.AsType[*net.DNSError](err); is {
		return "check the broker's name: it resolves to nothing here"
	}
	return "check that the broker runs and can be reached from here (HTTPS_PROXY and NO_PROXY are heeded): " + err.Error()
}

// ask asks what the broker says to the token, and to it about each grant. A token
// that is accepted is denied a grant that no policy has.
func (d *diagnosis) ask(ctx context.Context, c *client.Client, token string, grants []string) {
	asked := grants
	if len(asked) == 0 {
		asked = []string{anyGrant}
	}
	for _, grant := range asked {
		answer := grantAnswer{Grant: grant}
		err := c.WouldExchange(ctx, token, grant)
		problem, refused := errors.AsType[*api.Problem](err)
		switch {
		case err == nil:
			answer.Allowed = true
		case refused && grant == anyGrant && (problem.Code == api.CodeNotAllowed || problem.Code == api.CodeNoSuchGrant):
			return // the token is good
		case refused:
			answer.Code, answer.Reason, answer.Detail = problem.Code, problem.Reason, clean(problem.Detail)
			answer.Claims, answer.RequestID = problem.Claims, problem.RequestID
			d.wrong(exitCode(err), "%s", d.explainRefusal(problem))
		default:
			answer.Code, answer.Detail = "failed", clean(err.Error())
			d.wrong(exitFailed, "%v", err)
		}
		d.Grants = append(d.Grants, answer)
		if refused && problem.Code == api.CodeInvalidToken {
			return // the same for every grant
		}
	}
}

// explainRefusal says what to change about a refusal.
func (d *diagnosis) explainRefusal(problem *api.Problem) string {
	switch problem.Reason {
	case api.ReasonAudience:
		return "have the token made for the audience that the broker's provider entry has: --audience, DAYPASS_AUDIENCE, or `aud` under id_tokens"
	case api.ReasonIssuer:
		return fmt.Sprintf("have an operator add a provider with issuer %v", d.Token.Claims["iss"])
	case api.ReasonExpired, api.ReasonNotYetValid:
		return "get a new token, and compare the clocks of provider, broker and this machine"
	case api.ReasonReplayed:
		return "start the job again: its token was used up when its session was revoked"
	case api.ReasonProof:
		return "have DAYPASS_URL be the broker's external_url, and this machine's clock right: " + problem.Detail
	case api.ReasonSignature, api.ReasonAlgorithm, api.ReasonMalformed:
		return "use the token as the CI system gave it: the broker can't take it: " + problem.Detail
	}
	if problem.Code == api.CodeNotAllowed || problem.Code == api.CodeNoSuchGrant {
		var claims []string
		for _, name := range problem.Claims {
			claims = append(claims, fmt.Sprintf("%s is %s here", name, d.Token.claim(name)))
		}
		text := "compare this job's claims with the policy"
		if len(claims) > 0 {
			text += ": " + strings.Join(claims, ", ")
		}
		if problem.RequestID != "" {
			text += "; an admin sees every clause with: daypass policy explain --request " + problem.RequestID
		}
		return text
	}
	return "ask again later, or tell whoever runs the broker: " + problem.Error()
}
