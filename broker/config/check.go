package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11/uri"
	"github.com/daypass/daypass/policies/strictyaml"
)

// check looks at everything that the decoder can't know.
func (l *loader) check() {
	c := l.config
	l.unused("admins", c.Admins, "make tokens with: daypassd admin token")
	l.listen()
	l.externalURL()
	c.Database.URL = l.secret(secretAt{at: c.Database.At, key: "url", path: "database.url", raw: &c.Database.RawURL, file: c.Database.URLFile, fileKey: "url_file"})
	if most := c.Database.MaxConnections; (most != 0 || c.Database.At.Has("max_connections")) && (most < 8 || most > 1000) {
		l.add(c.Database.At.Of("max_connections"), "leave it out for 24", "max_connections is between 8 and 1000")
	}
	if d := &c.Database; d.RawDirectURL != "" || d.DirectURLFile != "" {
		d.DirectURL = l.secret(secretAt{at: d.At, key: "direct_url", path: "database.direct_url", raw: &d.RawDirectURL, file: d.DirectURLFile, fileKey: "direct_url_file"})
	}
	l.keys()
	l.environments()
	l.providers()
	l.issuers()
	l.policies()
	l.proxies()
	l.limits()
	l.retention()
	l.reconcile()
	l.redaction()
	l.hooks()
	l.oauth()
	l.vault()
	if c.Log.Level == "" {
		c.Log.Level = "info"
	}
	if levels := []string{"debug", "info", "warn", "error"}; !slices.Contains(levels, c.Log.Level) {
		l.add(c.Log.At.Of("level"), strictyaml.Suggest(c.Log.Level, levels), "unknown level %q", c.Log.Level)
	}
	l.isolatedAlike()
	l.references()
}

func (l *loader) policies() {
	p := &l.config.Policies
	l.need(p.At, "dir", p.Dir, "write policies: {dir: /etc/daypass/policies}")
	if !p.At.Has("watch") && !l.set["policies.watch"] {
		p.Watch = true
	}
	if p.OnPolicyChange == "" {
		p.OnPolicyChange = OnPolicyChangeKeep
	}
	if choices := []string{OnPolicyChangeKeep, OnPolicyChangeRevoke}; !slices.Contains(choices, p.OnPolicyChange) {
		l.add(p.At.Of("on_policy_change"), strictyaml.Suggest(p.OnPolicyChange, choices), "on_policy_change can't be %q", p.OnPolicyChange)
	}
}

func (l *loader) listen() {
	c := l.config
	if l.need(c.At, "listen", c.Listen, "write listen: 0.0.0.0:8443") {
		l.address("listen", c.Listen)
	}
	if c.AdminListen != "" {
		l.address("admin_listen", c.AdminListen)
		if c.AdminListen == c.Listen {
			l.add(c.At.Of("admin_listen"), "leave it out, or take another port", "admin_listen is the same as listen")
		}
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		l.add(c.At.Of("tls"), "name both", "tls has cert_file or key_file, but not both")
	}
	if c.TLS.Enabled() && c.InsecureHTTP {
		l.add(c.At.Of("insecure_http"), "leave one of them out", "insecure_http beside tls")
	}
	for key, address := range map[string]string{"listen": c.Listen, "admin_listen": c.AdminListen} {
		if address != "" && !c.TLS.Enabled() && !c.InsecureHTTP && !loopback(address) {
			l.add(c.At.Of(key), "name a certificate under tls; where something in front ends TLS, say insecure_http: true", "plain HTTP on %s, which is not a loopback address", address)
		}
	}
}

func (l *loader) address(key, address string) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		l.add(l.config.At.Of(key), "write 0.0.0.0:8443", "%q is no host and port", address)
		return
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		l.add(l.config.At.Of(key), "a number up to 65535", "%q is no port", port)
	}
}

// loopback says whether host:port can be reached from this machine alone.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopbackHost(host)
}

func loopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func (l *loader) externalURL() {
	c := l.config
	at := c.At.Of("external_url")
	if !l.need(c.At, "external_url", c.ExternalURL, "write the URL by which jobs reach this server") {
		return
	}
	if why := badURL(c.ExternalURL); why != "" {
		l.add(at, "write https://daypass.example.com", "external_url %s", why)
		return
	}
	if strings.HasSuffix(c.ExternalURL, "/") {
		l.add(at, "write "+strings.TrimRight(c.ExternalURL, "/"), "external_url ends in a slash: whoever compares it with the iss of a token would fail")
	}
}

// badURL says why a URL can't be an issuer, or "".
func badURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return "is no URL"
	case u.User != nil:
		return "holds a user"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(text, "#"):
		return "has a query or a fragment"
	case u.Host != strings.ToLower(u.Host):
		return "has capital letters in its host: write them small"
	case u.Scheme == "https":
		return ""
	case u.Scheme == "http" && loopbackHost(u.Hostname()):
		return ""
	default:
		return "is not https"
	}
}

func (l *loader) keys() {
	k := &l.config.Keys
	l.key("signing", &k.Signing)
	l.key("sealing", &k.Sealing)
	l.auditKey()
	for i := range k.Opening {
		l.openingKey(i)
	}
}

// openingKey checks a key that opens what is sealed. What it doesn't say of where
// it is, it has from keys.sealing.
func (l *loader) openingKey(i int) {
	k, from := &l.config.Keys.Opening[i], l.config.Keys.Sealing
	if !l.keyURI(k, uri.TypeSecretKey) {
		return
	}
	k.inheritURI(&from)
	l.need(k.At, "label", k.Label, "the label of a sealing key")
	if k.Type == "" {
		k.liveWhere(&from)
	} else {
		l.keyPlace("keys.opening."+strconv.Itoa(i), k)
	}
	if k.Label == from.Label && k.Module == from.Module && k.Token == from.Token && k.Serial == from.Serial && k.Dir == from.Dir {
		l.add(k.At.Of("label"), "take it out", "keys.opening repeats the key keys.sealing")
	}
	l.backup(k, true)
	if k.Backup == "" {
		k.Backup = from.Backup
	}
	for name, stands := range map[string]bool{"algorithm": k.Algorithm != "", "bits": k.Bits != 0, "rotate_every": k.Rotation != ""} {
		if stands {
			l.add(k.At.Of(name), "take it out", "a key that opens has no %s", name)
		}
	}
}

// liveWhere makes a key live where another one does.
func (k *Key) liveWhere(other *Key) {
	k.Type, k.Module, k.Token, k.Dir, k.PINFile, k.PIN = other.Type, other.Module, other.Token, other.Dir, other.PINFile, other.PIN
	k.Serial, k.Manufacturer, k.Model, k.SlotID = other.Serial, other.Manufacturer, other.Model, other.SlotID
	k.Isolate, k.IsolateEnv = other.Isolate, other.IsolateEnv
}

// issuerKey checks the key of an issuer that certifies.
func (l *loader) issuerKey(issuer *Issuer) {
	if issuer.Key == nil {
		issuer.Key = &Key{At: issuer.At}
	}
	k := issuer.Key
	if !l.keyURI(k, uri.TypePrivate) {
		return
	}
	k.inheritURI(&l.config.Keys.Signing)
	if k.Label == "" {
		k.Label = "daypass-" + issuer.Name
	}
	if k.Type == "" {
		from := l.config.Keys.Signing
		k.liveWhere(&from)
		l.unrotated(k, "take it out: an authority's key is replaced by hand")
		l.algorithm(k)
		return
	}
	l.unrotated(k, "take it out: an authority's key is replaced by hand")
	l.backup(k, false)
	l.keyPlace("issuers."+issuer.Name+".key", k)
	l.algorithm(k)
}

func (l *loader) algorithm(k *Key) {
	all := keys.Algorithms()
	switch {
	case k.Algorithm == "":
		k.Algorithm = keys.ES256
	case !slices.Contains(all, k.Algorithm):
		l.add(k.At.Of("algorithm"), strictyaml.Suggest(k.Algorithm, all), "signing with %q is not possible", k.Algorithm)
	}
	if k.Bits == 0 && !k.At.Has("bits") {
		return
	}
	if k.Algorithm != keys.RS256 && k.Algorithm != keys.PS256 {
		l.add(k.At.Of("bits"), "take it out", "a key for %s has no choice of size", k.Algorithm)
	} else if k.Bits != 2048 && k.Bits != 3072 && k.Bits != 4096 {
		l.add(k.At.Of("bits"), "", "bits is 2048, 3072 or 4096")
	}
}

func (l *loader) key(name string, k *Key) {
	if !l.config.Keys.At.Has(name) && k.Type == "" && k.URI == "" {
		l.add(l.config.Keys.At.Pos, "write keys: {"+name+": {type: pkcs11, module: …, token: …, pin_file: …}}", "the key keys.%s is missing", name)
		return
	}
	if !l.keyURI(k, map[string]string{"signing": uri.TypePrivate, "sealing": uri.TypeSecretKey}[name]) {
		return
	}
	if k.Label == "" {
		k.Label = "daypass-" + name
	}
	l.keyPlace("keys."+name, k)
	if name != "signing" {
		l.unrotated(k, "take it out: it isn't rotated by itself")
	}
	switch {
	case name == "signing":
		l.algorithm(k)
		l.rotation(k)
		if len(k.ID) > 0 && k.RotateEvery > 0 {
			l.add(k.At.Of("uri"), "leave the id out, or write rotate_every: never", "the uri names one key by its id, and the next ones have others")
		}
	case k.Algorithm != "":
		l.add(k.At.Of("algorithm"), "take it out", "the key for sealing has no choice of algorithm")
	case k.At.Has("bits"):
		l.add(k.At.Of("bits"), "take it out", "the key for sealing has 256 bits")
	}
	l.backup(k, name == "sealing")
}

func (l *loader) backup(k *Key, seals bool) {
	choices := []string{BackupNone, BackupWrapped}
	switch {
	case !k.At.Has("backup"):
	case !seals:
		l.add(k.At.Of("backup"), "take it out: keys that sign are rotated, never backed up", "backup is for keys that seal")
	case !slices.Contains(choices, k.Backup):
		l.add(k.At.Of("backup"), strictyaml.Suggest(k.Backup, choices), "backup can't be %q", k.Backup)
	case k.Type == KeySoftware && k.Backup != BackupNone:
		l.add(k.At.Of("backup"), "take it out: copy the folder", "a key of type software has no wrapped backup")
	}
}

// unrotated refuses a schedule for a key that has none.
func (l *loader) unrotated(k *Key, hint string) {
	if k.Rotation != "" || k.At.Has("rotate_every") {
		l.add(k.At.Of("rotate_every"), hint, "rotate_every is for keys.signing alone")
	}
}

// never is the schedule of a key that is rotated by hand alone.
const never = "never"

func (l *loader) rotation(k *Key) {
	switch k.Rotation {
	case never:
		return
	case "":
		if k.At.Has("rotate_every") {
			l.add(k.At.Of("rotate_every"), "write 30d, or never", "rotate_every is empty")
		}
		k.RotateEvery = keys.DefaultRotateEvery
		return
	}
	every, err := strictyaml.ParseDuration(k.Rotation)
	switch {
	case err != nil:
		l.add(k.At.Of("rotate_every"), "write 30d, or never", "%q is no duration", k.Rotation)
	case every < keys.MinRotateEvery || every > keys.MaxRotateEvery:
		l.add(k.At.Of("rotate_every"), "the next key has to be published for a day before it signs", "rotate_every is between %dh and %dd", keys.MinRotateEvery/time.Hour, keys.MaxRotateEvery/(24*time.Hour))
	default:
		k.RotateEvery = every
	}
}

// keyPlace checks where a key is.
func (l *loader) keyPlace(path string, k *Key) {
	k.PIN = l.secret(secretAt{at: k.At, key: "pin", path: path + ".pin", raw: &k.RawPIN, file: k.PINFile, fileKey: "pin_file"})
	l.isolation(k)
	var unfit map[string]string
	switch k.Type {
	case KeyPKCS11:
		l.need(k.At, "module", k.Module, "the path of the HSM's PKCS#11 module")
		l.needToken(k.At, k)
		unfit = map[string]string{"dir": k.Dir}
	case KeySoftware:
		l.need(k.At, "dir", k.Dir, "the folder of the keys")
		unfit = map[string]string{"module": k.Module, "token": k.Token}
		if !l.config.AllowSoftwareKeys {
			l.add(k.At.Of("type"), "use an HSM (type: pkcs11); for a trial, say allow_software_keys: true at the top", "software keys: whoever reads the disk has them")
		}
	case "":
		l.need(k.At, "type", "", "pkcs11 or software")
	default:
		l.add(k.At.Of("type"), strictyaml.Suggest(k.Type, []string{KeyPKCS11, KeySoftware}), "unknown type of key %q", k.Type)
	}
	for key, value := range unfit {
		if value != "" {
			l.add(k.At.Of(key), "take it out", "a key of type %s has no %s", k.Type, key)
		}
	}
}

func (l *loader) environments() {
	c := l.config
	if !c.At.Has("environments") {
		c.Environments = []string{"development", "test", "staging", "production"}
		return
	}
	at := c.At.Of("environments")
	if len(c.Environments) == 0 && !l.reported(at) {
		l.add(at, "leave the key out for development, test, staging and production", "no environments")
	}
	for i, name := range c.Environments {
		if !nameForm().MatchString(name) {
			l.add(at, "small letters, digits and -", "%q can't be the name of an environment", name)
		}
		if slices.Contains(c.Environments[:i], name) {
			l.add(at, "", "the environment %s stands here twice", name)
		}
	}
}

func (l *loader) proxies() {
	c := l.config
	at := c.At.Of("trusted_proxies")
	for _, text := range c.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil || addr.Zone() != "" {
				l.add(at, "write 10.0.0.5 or 10.0.0.0/24", "%q is no address or network", text)
				continue
			}
			network = netip.PrefixFrom(addr, addr.BitLen())
		}
		if network.Bits() == 0 {
			l.add(at, "name the proxies alone", "%s believes everybody's X-Forwarded-For", text)
			continue
		}
		c.ProxyNetworks = append(c.ProxyNetworks, network.Masked())
	}
}
