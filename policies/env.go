package policies

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

var envName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
})

// CheckEnvName says why a grant's `env` may not set a variable of this name in a
// job: it must match ^[A-Z][A-Z0-9_]*$, and must not be one that a loader, a
// shell, an interpreter, a CI system or the client itself obeys, since whoever
// chooses its value would then choose the code that runs.
func CheckEnvName(name string) error {
	if len(name) > 128 || !envName().MatchString(name) {
		return fmt.Errorf("%q is not the name of an environment variable: capital letters, digits and _ are, such as PGPASSWORD", name)
	}
	if name == "DAYPASS_JWT" || name == "DAYPASS_API_TOKEN" {
		return nil
	}
	for _, prefix := range []string{
		"LD_", "DYLD_", "BASH_FUNC_", "GIT_", "GITHUB_", "RUNNER_", "ACTIONS_", "CI_", "BUILDKITE_", "CIRCLE_", "BITBUCKET_",
		"PYTHON", "PERL5", "NPM_CONFIG_", "LUA_", "CARGO_", "DAYPASS_", "DAYPASSD_", "JAVA_TOOL", "GCONV_", "MALLOC_", "OPENSSL_",
	} {
		if strings.HasPrefix(name, prefix) {
			return fmt.Errorf("%s may not be set by a grant: names that begin with %s steer a loader, an interpreter, the CI system or the client", name, prefix)
		}
	}
	switch name {
	case "BASH_ENV", "BASHOPTS", "SHELLOPTS", "ENV", "PATH", "IFS", "CDPATH", "PS1", "PS2", "PS4", "PROMPT_COMMAND", "FPATH", "ZDOTDIR", "INPUTRC",
		"HOME", "SHELL", "USER", "LOGNAME", "PWD", "OLDPWD", "TMPDIR", "TERM", "TERMINFO", "EDITOR", "VISUAL", "PAGER", "LESSOPEN", "LESSCLOSE", "MANPAGER", "BROWSER", "CI",
		"GLIBC_TUNABLES", "LOCPATH", "NLSPATH", "HOSTALIASES", "RES_OPTIONS", "LOCALDOMAIN", "TZDIR",
		"RUBYOPT", "RUBYLIB", "GEM_HOME", "GEM_PATH", "BUNDLE_GEMFILE", "NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS", "PHPRC", "PHP_INI_SCAN_DIR",
		"JDK_JAVA_OPTIONS", "CLASSPATH", "JAVA_HOME", "JAVA_OPTS", "MAVEN_OPTS", "GRADLE_OPTS",
		"GOFLAGS", "GOENV", "GOROOT", "GOPATH", "GOPROXY", "GOTOOLCHAIN", "CC", "CXX", "CFLAGS", "LDFLAGS", "RUSTC_WRAPPER", "RUSTFLAGS", "MAKEFLAGS", "MAKEFILES",
		"PSQLRC", "PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "SSH_ASKPASS", "SSH_AUTH_SOCK", "SUDO_ASKPASS",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_HOME", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY":
		return fmt.Errorf("%s may not be set by a grant: a loader, shell, interpreter or client obeys it", name)
	default:
		return nil
	}
}
