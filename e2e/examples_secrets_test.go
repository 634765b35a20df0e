package e2e

import (
	"strings"

	"github.com/daypass/daypass/e2e/pages"
)

// ofSecrets are the steps of static secrets and of certificates.
func ofSecrets() []step {
	return []step{
		{"docs/static-secrets.md", "secret promote", func(w *world, e pages.Example) {
			w.f.write("key.txt", "sk_live_a-key-of-somebody-elses-service")
			w.sh(e.Text)
		}},
		{"docs/static-secrets.md", "--field-file", func(w *world, e pages.Example) {
			w.f.write("user.txt", "app")
			w.f.write("password.txt", "a-password-that-a-person-made-up")
			w.sh(e.Text)
		}},
		{"docs/static-secrets.md", `"stage"`, func(w *world, e pages.Example) {
			w.sh("daypass secret verify payments/legacy/login 1; daypass secret promote payments/legacy/login 1; " +
				"daypass secret put payments/legacy/login --hook rotator --rotate-field password; daypass secret rotate payments/legacy/login")
			select {
			case w.said = <-w.calls:
				answers(w, e)
			case <-w.f.t.Context().Done():
			}
		}},
		{"docs/static-secrets.md", "charge.sh", func(w *world, e pages.Example) {
			w.program("charge.sh", `[ "$STRIPE_KEY" = sk_live_a-key-of-somebody-elses-service ] && echo charged`)
			if out := w.sh(e.Text, "./charge.sh", "charge.sh"); !strings.Contains(out, "charged") {
				w.f.t.Errorf("%s", out)
			}
		}},
		{"docs/static-secrets.md", "secret reads", func(w *world, e pages.Example) {
			out := w.sh("daypass secret show payments/stripe-key --output json")
			_, id, _ := strings.Cut(out, `"sec_`)
			id, _, _ = strings.Cut(id, `"`)
			if out := w.sh(e.Text, "sec_…", "sec_"+id); !strings.Contains(out, "payments/stripe") || !strings.Contains(out, "secret.promoted") {
				w.f.t.Errorf("%s", out)
			}
		}},
		{"docs/static-secrets.md", "curl -X PUT", func(w *world, e pages.Example) {
			w.sh(e.Text, "curl -X", "curl -fsS -X", "sk_live_…", "sk_live_another-key-of-that-service")
		}},
		{"docs/ssh.md", "sshd_config", func(w *world, e pages.Example) {
			w.f.write("etc/ssh/daypass.krl", "")
			w.sh("curl -fsS https://daypass.example.com/v1/issuers/fleet-ssh/ca.pub > etc/ssh/daypass-ca.pub; ssh-keygen -q -t ed25519 -N '' -f etc/ssh/ssh_host_ed25519_key")
			file := w.f.write("sshd_config", w.local(e.Text)+"HostKey "+w.path("etc/ssh/ssh_host_ed25519_key")+"\n")
			w.sh(`mkdir -p /run/sshd 2>/dev/null || :; PATH="$PATH:/usr/sbin:/usr/local/sbin"; "$(command -v sshd)" -t -f ` + file)
		}},
		{"docs/ssh.md", "-f id\n", certificate},
		{"docs/ssh.md", "DAYPASS_SSH_KEY", certificate},
		{"docs/ssh.md", "daypass-krl https", func(w *world, e pages.Example) {
			w.program("daypass-krl", w.words["krl"])
			w.sh(e.Text)
			w.sh("ssh-keygen -Q -l -f etc/ssh/daypass.krl")
		}},
		{"docs/ssh.md", "ssh_host_ed25519_key.pub", func(w *world, e pages.Example) {
			if w.sh(e.Text); !strings.Contains(w.sh("ssh-keygen -L -f etc/ssh/ssh_host_ed25519_key-cert.pub"), "host certificate") {
				w.f.t.Errorf("%s", w.said)
			}
		}},
		{"docs/ssh.md", "@cert-authority", func(w *world, e pages.Example) {
			if w.sh(e.Text); !strings.Contains(w.read(".ssh/known_hosts"), "*.web.example.com ecdsa-sha2-nistp256 ") {
				w.f.t.Errorf("known_hosts: %s", w.read(".ssh/known_hosts"))
			}
		}},
		{"docs/x509.md", "DAYPASS_CERT", func(w *world, e pages.Example) {
			w.f.write("serve", "")
			w.sh("printf '#!/bin/sh\\nopenssl verify -CAfile root.pem -untrusted ci.pem tls.crt && openssl pkey -in tls.key -noout' > serve; chmod 700 serve")
			w.sh(e.Text)
		}},
		{"docs/x509.md", "openssl req", script},
		{"docs/x509.md", "crl.pem", func(w *world, e pages.Example) { w.sh(e.Text) }},
	}
}

// certificate is the step of a job that logs in: what stands in for ssh looks at
// what it was given.
func certificate(w *world, e pages.Example) {
	w.f.t.Helper()
	w.sh("rm -f id id.pub id-cert.pub")
	w.program("ssh", `[ "$1" = -i ] && ssh-keygen -L -f "$2-cert.pub" && ssh-keygen -y -f "$2" > /dev/null`)
	if out := w.sh(e.Text); !strings.Contains(out, "user certificate") || !strings.Contains(out, "daypass:main/fleet/") {
		w.f.t.Errorf("%s", out)
	}
}

// ofKeys are the steps of signing keys, behind which what they sign is another.
func ofKeys() []step {
	return []step{
		{"docs/keys.md", "keys ls", func(w *world, e pages.Example) {
			w.sh("daypassd keys rotate --config daypass.yaml")
			w.sh(e.Text)
		}},
		{"docs/keys.md", "NEXT", prints},
		{"docs/keys.md", "keys generate", func(w *world, e pages.Example) {
			// One line takes back what another one makes: the third comes first.
			lines := strings.Split(strings.TrimSpace(e.Text), "\n")
			w.f.write("ssh.yaml", w.merge(w.read("daypass.yaml"), "issuers: [{name: ssh, type: ssh, roles: {x: {type: user, principals: [x], used_by: [{policy: fleet, environment: production}]}}}]"))
			w.sh(strings.Join([]string{lines[2], lines[0], lines[1], lines[3]}, "\n"), "daypass.yaml --issuer", "ssh.yaml --issuer")
			if !strings.Contains(w.read("ca.pem"), "PUBLIC KEY") {
				w.f.t.Errorf("%s", w.read("ca.pem"))
			}
		}},
		{"docs/keys.md", "revoke-key", func(w *world, e pages.Example) { w.sh(e.Text, "daypass-signing-2", "daypass-signing-3") }},
		{"docs/keys.md", "signs now", prints},
		{"docs/key-recovery.md", "keys sealing", func(w *world, e pages.Example) {
			w.sh(strings.TrimPrefix(strings.SplitN(e.Text, "\n", 2)[0], "$ "))
			prints(w, e)
		}},
		{"docs/key-recovery.md", "tar -C", func(w *world, e pages.Example) {
			w.program("systemctl", `[ "$2" = daypassd ]`)
			w.f.write("hsm/tokens/one", "")
			w.sh(e.Text)
			w.sh("tar -tzf hsm-backup.tar.gz | grep -q tokens/one")
		}},
	}
}

// atTheEnd are the steps behind which the broker is another.
func atTheEnd() []step {
	return []step{
		{"", "the broker stops", func(w *world, _ pages.Example) { w.b.kill() }},
		{"docs/key-recovery.md", "keys replace --config daypass.yaml\n", script},
		{"docs/key-recovery.md", "--compromised --yes", func(w *world, e pages.Example) {
			w.sh("daypassd keys sealing --config daypass.yaml --make daypass-sealing-2; cp daypass.yaml before.yaml")
			w.f.write("daypass.yaml", strings.Replace(w.merge(w.read("before.yaml"), "keys: {opening: [{label: daypass-sealing}]}"), "sealing: {", "sealing: {label: daypass-sealing-2, ", 1))
			if out := w.sh(e.Text); !strings.Contains(out, "Nothing was done") {
				w.f.t.Errorf("%s", out)
			}
		}},
		{"docs/restore.md", "restore --config", func(w *world, e pages.Example) {
			lines := strings.Split(strings.ReplaceAll("\n"+e.Text, "\n$ ", "\n"), "\n")[1:]
			if out := w.sh(lines[0]); !strings.Contains(out, "Nothing was done") {
				w.f.t.Errorf("%s", out)
			}
			w.sh(lines[1])
			w.until(`"serving"`, lines[2])
			w.sh(lines[3])
		}},
	}
}
