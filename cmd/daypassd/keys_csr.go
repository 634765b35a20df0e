package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/issuers/x509"
	"github.com/daypass/daypass/policies/strictyaml"
)

// longestRoot bounds a self-signed root: it is for trials.
const longestRoot = 10 * 365 * 24 * time.Hour

func newKeysCSR() *cobra.Command {
	var (
		file               configFile
		name, subject, ttl string
		selfSigned         bool
	)
	cmd := &cobra.Command{
		Use:   "csr",
		Short: "Print the request (PKCS#10) by which an authority above certifies an issuer's key",
		Long: `Print the request (PKCS#10) by which an authority above certifies the key of an issuer of type x509. What it gives back,
and those above it, are what the issuer's chain_file holds. For a trial, --self-signed prints a root instead, which is such a chain by itself.

The key must be there already, and doesn't leave its token.`,
		Example: `  daypassd keys csr --config daypass.yaml --issuer ci --subject CN=Example-CI,O=Example > ci.csr
  openssl x509 -req -in ci.csr -CA root.pem -CAkey root.key -days 365 -copy_extensions copy -out ci.pem
  cat ci.pem root.pem > /etc/daypass/ci-chain.pem
  daypassd keys csr --config daypass.yaml --issuer ci --subject CN=Trial --self-signed --ttl 90d > ci-chain.pem`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if subject == "" {
				subject = "CN=Daypass " + name
			}
			about, err := x509.ParseSubject(subject)
			if err != nil {
				return usageError{err}
			}
			var life time.Duration
			if selfSigned {
				if life, err = strictyaml.ParseDuration(ttl); err != nil || life <= 0 || life > longestRoot {
					return usageError{fmt.Errorf("--ttl %q: a time such as 90d, 3650d at the most", ttl)}
				}
			} else if cmd.Flags().Changed("ttl") {
				return usageError{errors.New("--ttl goes with --self-signed: the authority above decides how long a certificate lives")}
			}
			settings, err := file.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			issuer := settings.Issuer(name)
			if issuer == nil || issuer.Type != config.IssuerX509 {
				return usageError{fmt.Errorf("the configuration has no issuer %q of type x509 (hint: name one with --issuer)", name)}
			}
			store := &keyStore{allowSoftware: settings.AllowSoftwareKeys}
			defer store.Close() //nolint:errcheck // the command has done its work
			signer, err := store.opened(cmd.Context(), *issuer.Key)
			if err != nil {
				return fmt.Errorf("issuers.%s.key: %w (hint: `daypassd keys generate --issuer %s` makes it)", name, err, name)
			}
			var text []byte
			if selfSigned {
				now := time.Now()
				text, err = x509.SelfSigned(cmd.Context(), signer, about, now, now.Add(life))
			} else {
				text, err = x509.Request(cmd.Context(), signer, about)
			}
			if err != nil {
				return fmt.Errorf("issuer %s: %w", name, err)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&name, "issuer", "", "which issuer of the configuration")
	cmd.Flags().StringVar(&subject, "subject", "", `the authority's name, such as "CN=Example CI,O=Example" (default: CN=Daypass and the issuer's name)`)
	cmd.Flags().BoolVar(&selfSigned, "self-signed", false, "print a root instead, for a trial")
	cmd.Flags().StringVar(&ttl, "ttl", "365d", "how long a root lives")
	return cmd
}
