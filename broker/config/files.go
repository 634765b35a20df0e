package config

import (
	"errors"
	"io/fs"
	"os"

	"github.com/daypass/daypass/policies/strictyaml"
)

// CheckFiles says which files and folders that the configuration names are not
// there. The folder of software keys isn't looked at: it is made with the keys. stat is os.Stat when nil; a test gives one of its own.
func (c *Config) CheckFiles(stat func(path string) (fs.FileInfo, error)) []strictyaml.Mistake {
	if stat == nil {
		stat = os.Stat
	}
	var mistakes []strictyaml.Mistake
	look := func(at strictyaml.Where, key, path string, folder bool) {
		if path == "" {
			return
		}
		pos := at.Of(key)
		info, err := stat(path)
		var failed *fs.PathError
		switch {
		case errors.As(err, &failed):
			mistakes = append(mistakes, pos.Mistake("", "%s: %v", path, failed.Err))
		case err != nil:
			mistakes = append(mistakes, pos.Mistake("", "%s: %v", path, err))
		case info.IsDir() != folder && folder:
			mistakes = append(mistakes, pos.Mistake("", "%s is no folder", path))
		case info.IsDir() != folder:
			mistakes = append(mistakes, pos.Mistake("", "%s is a folder", path))
		}
	}
	look(c.TLS.At, "cert_file", c.TLS.CertFile, false)
	look(c.TLS.At, "key_file", c.TLS.KeyFile, false)
	look(c.Database.At, "url_file", c.Database.URLFile, false)
	look(c.Database.At, "direct_url_file", c.Database.DirectURLFile, false)
	for _, k := range []*Key{&c.Keys.Signing, &c.Keys.Sealing} {
		look(k.At, "module", k.Module, false)
		look(k.At, "pin_file", k.PINFile, false)
	}
	for i := range c.Providers {
		look(c.Providers[i].At, "ca_file", c.Providers[i].CAFile, false)
	}
	for i := range c.Issuers {
		issuer := &c.Issuers[i]
		look(issuer.Target.At, "ca_file", issuer.Target.CAFile, false)
		look(issuer.Admin.At, "password_file", issuer.Admin.PasswordFile, false)
	}
	for i := range c.Secrets.Hooks {
		look(c.Secrets.Hooks[i].At, "token_file", c.Secrets.Hooks[i].TokenFile, false)
		look(c.Secrets.Hooks[i].At, "ca_file", c.Secrets.Hooks[i].CAFile, false)
	}
	look(c.Leaks.GitHub.At, "ca_file", c.Leaks.GitHub.CAFile, false)
	look(c.Leaks.GitLab.At, "token_file", c.Leaks.GitLab.TokenFile, false)
	look(c.Policies.At, "dir", c.Policies.Dir, true)
	return strictyaml.Sort(mistakes)
}
