//go:build !packed

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/policies"
)

// explain is what `policy explain` was asked for.
type explain struct {
	asking

	request, config string
	remote          bool
}

func (p *program) policyExplainCommand() *cobra.Command {
	var e explain
	cmd := &cobra.Command{
		Use:   "explain [PATH...]",
		Short: "Show why a token is let through or not, clause by clause",
		Long: `Explain decides about a token, or about claims that you write, and shows every job
entry of the grant with every clause of it: what the policy wants, what the token has,
and whether that fits. The closest miss stands first. PATH is where the policies are;
the current folder when there is none. It needs no server and no network.

The token is decoded and NOT verified: this says what the policies make of its claims,
not whether the broker would accept it. Its provider is found by its iss with --config;
else --provider names it.

--claims name=text gives a text, whatever it looks like, as most claims are;
--claims name:=json a number, true, a list or an object. They win over the same
claims of --token and --claims-file. Without an exp the token lives for an hour.

With --request ID the broker explains a decision that it has on record, and with
--remote one that it would make now, by its own policies; both need an admin's token
(--token-file or DAYPASS_ADMIN_TOKEN_FILE).

Exit code 0: allowed, 3: denied.`,
		Example: `  daypass policy explain --grant payments/deploy-db --token job.jwt --provider github policies/
  daypass policy explain --grant payments/deploy-db --provider github \
      --claims repository_id=123456789 --claims ref=refs/heads/main --at 2026-11-23T10:00:00Z policies/
  daypass policy explain --grant payments/deploy-db --token job.jwt --config daypass.yaml --output json policies/
  daypass policy explain --request req_01J8Z3`,
	}
	out := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&e.grant, "grant", "", "POLICY/GRANT")
	flags.StringVar(&e.token, "token", "", `a file with the job's token, "-" for standard input; it isn't verified`)
	flags.StringArrayVar(&e.claims, "claims", nil, "a claim: name=text or name:=json; may be repeated")
	flags.StringVar(&e.claimsFile, "claims-file", "", `a JSON file with claims, "-" for standard input`)
	flags.StringVar(&e.provider, "provider", "", "the token's provider, by its name in the server's configuration")
	flags.StringVar(&e.at, "at", "", "when, like 2026-11-23T10:00:00Z (default: now)")
	flags.StringVar(&e.ip, "ip", "", "from which address")
	flags.StringVar(&e.ttl, "ttl", "", "for how long, like 10m (default: what the policy says)")
	flags.StringVar(&e.request, "request", "", "explain the recorded decision on the request of this id; asks the broker")
	flags.BoolVar(&e.remote, "remote", false, "let the broker explain, by the policies in force there")
	configFlag(cmd, &e.config)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		answer, err := p.explain(cmd.Context(), &e, args)
		if err != nil {
			return err
		}
		if *out == outputJSON {
			err = p.printJSON(answer)
		} else {
			err = p.printExplanation(answer)
		}
		if err == nil && !answer.Allowed {
			return &exit{exitDenied, nil}
		}
		return err
	}
	return cmd
}

func (p *program) explain(ctx context.Context, e *explain, args []string) (*api.Explanation, error) {
	online := e.request != "" || e.remote
	switch {
	case e.request != "" && (e.remote || e.grant != "" || e.given()):
		return nil, usage("--request goes alone: the broker knows who asked for what")
	case online && (len(args) > 0 || e.config != ""):
		return nil, usage("the broker explains by its own policies: no PATH and no --config")
	case e.request == "" && e.grant == "":
		return nil, usage("no grant given (hint: --grant POLICY/GRANT)")
	case e.request == "" && !e.given():
		return nil, usage("no token and no claims given (hint: --token FILE, --claims name=text or --claims-file FILE)")
	}
	if e.request != "" {
		return p.explainThere(ctx, api.ExplainRequest{RequestID: e.request})
	}
	claims, token, err := e.read(p)
	if err != nil {
		return nil, err
	}
	req, at, err := e.asking.request(p.now())
	if err != nil {
		return nil, err
	}
	if e.remote {
		there := api.ExplainRequest{Grant: e.grant, TTL: e.ttl, IP: e.ip, Token: token}
		if e.at != "" {
			there.At = at.UTC().Format(time.RFC3339)
		}
		if token == "" || len(e.claims) > 0 {
			there.Token, there.Provider, there.Claims = "", e.provider, claims
			if e.provider == "" {
				return nil, usage("which provider's claims are these? (hint: --provider NAME)")
			}
		}
		return p.explainThere(ctx, there)
	}
	return p.explainHere(ctx, e, args, decision{claims, req, at})
}

func (p *program) explainThere(ctx context.Context, request api.ExplainRequest) (*api.Explanation, error) {
	c, admin, err := p.withToken()
	if err != nil {
		return nil, err
	}
	return c.Explain(ctx, admin, request)
}

// decision is one to be made.
type decision struct {
	claims api.Claims
	req    policies.Request
	at     time.Time
}

func (p *program) explainHere(ctx context.Context, e *explain, args []string, d decision) (*api.Explanation, error) {
	l, err := p.mustLoad(ctx, args, e.config)
	if err != nil {
		return nil, err
	}
	id, err := e.identity(d.claims, l.config, d.at)
	if err != nil {
		return nil, err
	}
	if e.token != "" {
		p.say("the token was decoded, not verified: this says what the policies make of its claims, not whether the broker would accept it")
	}
	if !d.at.Before(id.Expiry) {
		p.say("the token ended at %s: the broker would refuse it, whatever the policies say (hint: --at)", stamp(id.Expiry))
	}
	made, err := l.set.Explain(id, d.req, d.at)
	if err != nil {
		return nil, err
	}
	return wired(made)
}

// wired makes of an explanation what the API would answer: one form for both.
func wired(made *policies.Explanation) (*api.Explanation, error) {
	data, err := json.Marshal(made)
	if err != nil {
		return nil, fmt.Errorf("encoding explanation: %w", err)
	}
	var answer api.Explanation
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("decoding explanation: %w", err)
	}
	return &answer, nil
}
