package issuers

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// CheckEnvName says why a name may not be set in a job's environment: it must
// match ^[A-Z][A-Z0-9_]*$, and must not be one that a loader, shell or
// interpreter obeys, since whoever chooses the value would then choose the code
// that runs. The same check serves the roles of every kind and a grant's `env`.
func CheckEnvName(name string) error {
	if !envNamePattern().MatchString(name) {
		return fmt.Errorf("environment variable %q: a name matches ^[A-Z][A-Z0-9_]*$", name)
	}
	for _, prefix := range []string{"LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG", "NPM_CONFIG_", "DAYPASS_SESSION", "GITHUB_", "RUNNER_", "CI_"} {
		if strings.HasPrefix(name, prefix) {
			return fmt.Errorf("environment variable %q: names that begin with %s belong to the loader, the shell or the CI system", name, prefix)
		}
	}
	switch name {
	case "BASH_ENV", "BASHOPTS", "SHELLOPTS", "ENV", "PATH", "IFS", "CDPATH", "PS4", "PROMPT_COMMAND", "SHELL", "HOME", "TMPDIR", "EDITOR", "VISUAL", "PAGER", "BROWSER",
		"GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "NLSPATH", "HOSTALIASES", "RES_OPTIONS", "MALLOC_TRACE",
		"PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONINSPECT", "PERL5OPT", "PERL5LIB", "PERL5DB", "RUBYOPT", "RUBYLIB", "NODE_OPTIONS", "NODE_PATH",
		"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH", "MAVEN_OPTS", "GRADLE_OPTS", "PHPRC", "PHP_INI_SCAN_DIR", "LUA_PATH", "LUA_CPATH", "LUA_INIT",
		"GOFLAGS", "GOPROXY", "GOENV", "GOROOT", "GOTOOLCHAIN", "CC", "CXX", "RUSTC_WRAPPER", "MAKEFLAGS", "PSQLRC", "PGSERVICEFILE", "PGSYSCONFDIR",
		"GIT_SSH", "GIT_SSH_COMMAND", "GIT_EXEC_PATH", "GIT_ASKPASS", "GIT_EDITOR", "GIT_PAGER", "GIT_EXTERNAL_DIFF", "GIT_PROXY_COMMAND", "GIT_TEMPLATE_DIR", "SSH_ASKPASS",
		"OPENSSL_CONF", "OPENSSL_MODULES", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_HOME", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE",
		"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "DAYPASS_URL", "DAYPASS_AUDIENCE", "DAYPASS_TOKEN_FILE", "DAYPASS_CACERT":
		return fmt.Errorf("environment variable %q: a loader, shell, interpreter or client obeys it, so a grant may not set it", name)
	}
	return nil
}

var envNamePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
})
