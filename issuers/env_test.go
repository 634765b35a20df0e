package issuers_test

import (
	"testing"

	"github.com/daypass/daypass/issuers"
)

func TestCheckEnvName(t *testing.T) {
	for _, good := range []string{"PGUSER", "DAYPASS_JWT", "DAYPASS_API_TOKEN", "A", "DB_2_URL", "DATABASE_URL"} {
		if err := issuers.CheckEnvName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{
		"", "pguser", "1A", "_A", "A-B", "A=B", "A\n", "A ", "É", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "ENV", "PATH",
		"PYTHONSTARTUP", "NODE_OPTIONS", "PERL5OPT", "RUBYOPT", "JAVA_TOOL_OPTIONS", "GIT_SSH_COMMAND", "GITHUB_ENV", "DAYPASS_URL", "HTTPS_PROXY", "IFS",
	} {
		if issuers.CheckEnvName(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
