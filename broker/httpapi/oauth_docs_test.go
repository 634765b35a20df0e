package httpapi_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// documented runs what docs/oauth.md shows for a shell, in its order.
func (o *office) documented(t *testing.T) {
	page, err := os.ReadFile("../../docs/oauth.md")
	if err != nil {
		t.Fatal(err)
	}
	var script []string
	for _, m := range regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		script = append(script, m[1])
	}
	if len(script) != 3 {
		t.Fatalf("%d scripts in docs/oauth.md", len(script))
	}
	// What is shown after a request is what it brings, by its members.
	run := exec.CommandContext(t.Context(), "sh", "-euc", strings.ReplaceAll(script[0]+script[1]+"echo\n"+script[2]+script[1], "deploy:$SECRET", "docs:$SECRET"))
	run.Env = append(os.Environ(), "DAYPASS_URL="+o.URL, "ID_TOKEN="+o.Job(), "SECRET="+otherSecret+otherSecret, "no_proxy=127.0.0.1")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 2 || lines[1] != `{"active":false}` {
		t.Fatalf("%s", out)
	}
	shown := regexp.MustCompile("(?s)\n```json\n(\\{\n  \"active\".*?)```").FindStringSubmatch(string(page))
	if shown == nil {
		t.Fatal("docs/oauth.md shows no introspection")
	}
	var want, got map[string]any
	if err := json.Unmarshal([]byte(shown[1]), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	for name, value := range want {
		if _, there := got[name]; !there {
			t.Errorf("the page shows %s, which isn't there", name)
		}
		if text, ok := value.(string); ok && name != "iss" && name != "jti" && got[name] != text {
			t.Errorf("%s is %v, the page says %s", name, got[name], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the page shows %v, there is %v", want, got)
	}
}
