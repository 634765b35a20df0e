package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing/fstest"

	"go.yaml.in/yaml/v3"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/e2e/pages"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
)

// settingNames are the keys at the top of the server's configuration.
func settingNames() (names []string) {
	for field := range reflect.TypeFor[config.Config]().Fields() {
		if name, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}

var policyNames = []string{"policy", "owner", "description", "environment", "session", "jobs", "grants", "exceptions", "tests"}

// checkYAML checks a piece of the server's configuration, of a policy, or of rules
// for alerts.
func (w *world) checkYAML(e pages.Example) string {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(e.Text), &document); err != nil {
		return err.Error()
	}
	top := document.Content[0]
	names := map[string]bool{}
	if top.Kind == yaml.MappingNode {
		for i := 0; i < len(top.Content); i += 2 {
			names[top.Content[i].Value] = true
		}
	}
	only := func(of []string) bool {
		return len(names) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(names)), func(n string) bool { return !slices.Contains(of, n) })
	}
	switch {
	case only(settingNames()):
		if !strings.Contains(e.Text, "signing:") && !strings.Contains(e.Text, "sealing:") {
			w.parts = append(w.parts, e)
		}
		return w.checkSettings(e.Text)
	case only(policyNames):
		return w.checkPolicy(e.Text)
	case top.Kind == yaml.SequenceNode && strings.Contains(e.Text, "alert:"):
		return checkAlerts(e.Text)
	}
	return "nothing here knows what this YAML is (hint: a step in examples_steps_test.go)"
}

// checkSettings reads the world's configuration with a page's part in it.
func (w *world) checkSettings(text string) string {
	merged := w.merge(w.settings(), w.local(text))
	_, mistakes := config.Parse("daypass.yaml", []byte(merged), []string{})
	if len(mistakes) > 0 {
		return fmt.Sprint(mistakes)
	}
	return ""
}

// anyIssuer lets each policy use each issuer.
type anyIssuer struct{}

func (anyIssuer) CheckGrant(policies.GrantUse) error { return nil }

func (w *world) checkPolicy(text string) string {
	_, err := policies.Load(w.f.t.Context(), policies.Source{FS: fstest.MapFS{"p.yaml": {Data: []byte(wholePolicy("payments", text))}}}, policies.Config{
		Providers: map[string]lint.Provider{"github": {Type: "github"}, "gitlab": {Type: "gitlab"}}, Issuers: anyIssuer{},
	})
	if err != nil {
		return err.Error()
	}
	return ""
}

// wholePolicy puts what a page leaves out of a policy around what it shows.
func wholePolicy(name, text string) string {
	if strings.HasPrefix(text, "policy:") {
		return text
	}
	whole := "policy: " + name + "\nowner: team@example.com\nenvironment: production\n"
	if !strings.Contains("\n"+text, "\njobs:") {
		whole += "jobs:\n" + jobOfPages
	}
	return whole + text
}

const jobOfPages = "  - {name: release, provider: github, claims: {repository_id: \"74\", repository_owner_id: \"65\", ref: refs/heads/main, event_name: push}}\n"

var metricName = regexp.MustCompile(`daypass_[a-z_]+`)

// checkAlerts looks for each metric of the rules in the program's source.
func checkAlerts(text string) string {
	var alerts []struct {
		Alert, Expr string
		Annotations map[string]string
	}
	if err := yaml.Unmarshal([]byte(text), &alerts); err != nil {
		return err.Error()
	}
	var source strings.Builder
	files, err := filepath.Glob("../broker/*/*.go")
	if err != nil {
		return err.Error()
	}
	for _, file := range files {
		code, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		source.Write(code)
	}
	for _, alert := range alerts {
		if alert.Alert == "" || alert.Annotations["summary"] == "" || !metricName.MatchString(alert.Expr) {
			return "an alert lacks its name, its summary or its metric"
		}
		for _, name := range metricName.FindAllString(alert.Expr, -1) {
			if !strings.Contains(source.String(), `"`+name+`"`) && !strings.Contains(source.String(), `"`+strings.TrimPrefix(name, "daypass_")+`"`) {
				return "there is no metric " + name
			}
		}
	}
	return ""
}

// merge puts a piece of YAML into another: members of objects side by side, items
// of lists behind each other. A key of keys is replaced as a whole: where it is, is
// one thing.
func (w *world) merge(into, text string) string {
	w.f.t.Helper()
	var a, b yaml.Node
	for text, node := range map[string]*yaml.Node{into: &a, text: &b} {
		if err := yaml.Unmarshal([]byte(text), node); err != nil {
			w.f.t.Fatalf("%v\n%s", err, text)
		}
	}
	mergeNodes(a.Content[0], b.Content[0], "")
	merged, err := yaml.Marshal(&a)
	if err != nil {
		w.f.t.Fatal(err)
	}
	return string(merged)
}

func mergeNodes(into, from *yaml.Node, path string) {
	for i := 0; i+1 < len(from.Content); i += 2 {
		key, value := from.Content[i], from.Content[i+1]
		at := slices.IndexFunc(into.Content, func(n *yaml.Node) bool { return n.Value == key.Value })
		for at%2 == 1 { // a value that is spelled as the key
			at = -1
		}
		switch {
		case at < 0:
			into.Content = append(into.Content, key, value)
		case value.Kind == yaml.MappingNode && path != "keys":
			mergeNodes(into.Content[at+1], value, key.Value)
		case value.Kind == yaml.SequenceNode:
			mergeLists(into.Content[at+1], value)
		default:
			into.Content[at+1] = value
		}
	}
}

// mergeLists appends items; one that has the name of another is put into that.
func mergeLists(into, from *yaml.Node) {
	for _, item := range from.Content {
		at := slices.IndexFunc(into.Content, func(n *yaml.Node) bool { return nameOf(n) != "" && nameOf(n) == nameOf(item) })
		if at < 0 {
			into.Content = append(into.Content, item)
			continue
		}
		mergeNodes(into.Content[at], item, "")
	}
}

func nameOf(n *yaml.Node) string {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "name" {
			return n.Content[i+1].Value
		}
	}
	return ""
}
