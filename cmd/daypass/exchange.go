package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

func (p *program) exchangeCommand() *cobra.Command {
	var (
		ttl       string
		csrFile   string
		publicKey string
		githubEnv bool
		options   client.RawOptions
	)
	formats := []string{"json", "env", "dotenv", "github", "value"}
	cmd := &cobra.Command{
		Use:   "exchange GRANT...",
		Short: "Get credentials for this job and print them",
		Long: `Exchange gives the job's token for the credentials of one or more grants and prints
them. All or nothing: when one can't be had, none is issued.

Prefer "daypass exec" where it can be used: it masks output and gives the
credentials back when the command ends. What exchange prints lives until its end,
unless --session is given and the session revoked with the token that it adds.

In a step of GitHub Actions, --github-env first has the runner mask the secrets in
all that the job prints from then on, in all the forms that encoders give them
(::add-mask::, on standard output), and then appends the variables to the file that
$GITHUB_ENV names, for the later steps. "--format github >> $GITHUB_ENV" does the same
with the masks on standard error. A value that is too short or too common is not
masked, and said to be so.`,
		Example: `  daypass exchange payments/deploy-db
  eval "$(daypass exchange --format env payments/deploy-db)"
  daypass exchange --github-env payments/deploy-db
  daypass exchange --format value --field password --ttl 10m payments/deploy-db
  daypass exchange --csr web.csr --format value --field certificate payments/web-tls > web.pem
  daypass exchange --format value --field certificate --public-key id_ed25519.pub fleet/login > id_ed25519-cert.pub`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > api.MaxGrants {
				return usage("%d grants, want 1 to %d (hint: %s --help)", len(args), api.MaxGrants, cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case githubEnv && cmd.Flags().Changed("format") && options.Format != "github":
				return usage("--github-env goes with --format github, which it implies")
			case !slices.Contains(formats, options.Format):
				return usage("no such format: %q (hint: one of %s)", options.Format, strings.Join(formats, ", "))
			case options.Field != "" && options.Format != "value":
				return usage("--field goes with --format value only")
			case options.Format == "value" && (options.Session || len(args) > 1):
				return usage("--format value prints one secret: one grant, without --session")
			case csrFile != "" && len(args) > 1:
				return usage("--csr goes with one grant: a request is for one certificate")
			}
			request := grantsOf(args, ttl)
			if csrFile != "" {
				csr, err := p.readCSR(csrFile)
				if err != nil {
					return err
				}
				request.Grants[0].CSR = csr
			}
			if err := attachPublicKey(&request, publicKey); err != nil {
				return err
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			token, err := p.jobToken(cmd.Context())
			if err != nil {
				return err
			}
			if githubEnv || options.Format == "github" {
				return p.exchangeForGitHub(cmd.Context(), c, token, request, options.Session, githubEnv)
			}
			answer, err := c.ExchangeRaw(cmd.Context(), token, request, options)
			if err != nil {
				return err
			}
			if _, err := p.stdout.Write(answer); err != nil {
				return fmt.Errorf("printing credentials: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long the credentials live, like 10m (default: what the policy says, which is also the most)")
	cmd.Flags().StringVar(&csrFile, "csr", "", "a file with a PKCS#10 request in PEM (- for the standard input): the certificate is for its key, which stays here")
	cmd.Flags().StringVar(&options.Format, "format", "json", "one of "+strings.Join(formats, ", "))
	cmd.Flags().BoolVar(&githubEnv, "github-env", false, "in GitHub Actions: mask the secrets, then append the variables to the file $GITHUB_ENV")
	cmd.Flags().StringVar(&options.Field, "field", "", "which value to print, of format value")
	cmd.Flags().StringVar(&publicKey, "public-key", "", "file with an OpenSSH public key of the job's, for a grant that certifies it")
	cmd.Flags().BoolVar(&options.Session, "session", false, "add DAYPASS_SESSION_TOKEN to formats other than json")
	return cmd
}

// maxCSR is more than any request that a broker takes.
const maxCSR = 16 << 10

// readCSR reads a request. A private key that stands beside it, as some tools
// write them, must not leave this machine.
func (p *program) readCSR(path string) (string, error) {
	in := p.stdin
	if path != "-" {
		f, err := os.Open(path) //nolint:gosec // who runs this names the file
		if err != nil {
			return "", fmt.Errorf("reading the CSR: %w", err)
		}
		defer f.Close() //nolint:errcheck // opened for reading
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxCSR+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the CSR: %w", err)
	case len(text) > maxCSR:
		return "", usage("%s is larger than %d bytes: a CSR alone is expected", path, maxCSR)
	case bytes.Contains(text, []byte("PRIVATE KEY")):
		return "", usage("%s holds a private key, which stays where it is: give the CSR alone (hint: openssl req -new -key web.key -subj / -out web.csr)", path)
	case !bytes.Contains(text, []byte("-----BEGIN CERTIFICATE REQUEST-----")):
		return "", usage("%s holds no CERTIFICATE REQUEST in PEM (hint: openssl req -new -key web.key -subj / -out web.csr)", path)
	}
	return string(text), nil
}

// grantsOf asks for each grant with the same TTL.
func grantsOf(names []string, ttl string) api.ExchangeRequest {
	var request api.ExchangeRequest
	for _, name := range names {
		request.Grants = append(request.Grants, api.GrantRequest{Name: name, TTL: ttl})
	}
	return request
}
