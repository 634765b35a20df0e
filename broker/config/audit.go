package config

import (
	"path/filepath"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11/uri"
	"github.com/daypass/daypass/policies/strictyaml"
)

// auditKey checks the key that signs checkpoints. What it doesn't say of where it is,
// it has from keys.signing.
func (l *loader) auditKey() {
	k, from := l.config.Keys.Audit, l.config.Keys.Signing
	if path := l.config.Audit.CheckpointFile; path != "" {
		at := l.config.Audit.At.Of("checkpoint_file")
		if k == nil {
			l.add(at, "configure keys.audit, or take it out", "nothing signs the checkpoints that audit.checkpoint_file is for")
		}
		if !filepath.IsAbs(path) {
			l.add(at, "write it from / on", "audit.checkpoint_file is not a whole path")
		}
	}
	if k == nil || !l.keyURI(k, uri.TypePrivate) {
		return
	}
	k.inheritURI(&from)
	if k.Label == "" {
		k.Label = "daypass-audit"
	}
	if k.Type == "" {
		k.liveWhere(&from)
	} else {
		l.keyPlace("keys.audit", k)
	}
	l.backup(k, false)
	l.unrotated(k, "take it out: to replace the key, configure another label")
	if k.Label == from.Label && k.Module == from.Module && k.Token == from.Token && k.Serial == from.Serial && k.Dir == from.Dir {
		l.add(k.At.Of("label"), "give it a label of its own", "keys.audit is the key keys.signing: whoever gets a JWT signed must not be able to sign the audit log")
	}
	switch k.Algorithm {
	case "":
		k.Algorithm = keys.ES256
	case keys.ES256, keys.EdDSA:
	default:
		l.add(k.At.Of("algorithm"), strictyaml.Suggest(k.Algorithm, []string{keys.ES256, keys.EdDSA}), "checkpoints are not signed by %q", k.Algorithm)
	}
	if k.At.Has("bits") {
		l.add(k.At.Of("bits"), "take it out", "a key for %s has no choice of size", k.Algorithm)
	}
}
