package clients

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
)

// Fakes of CI systems: each takes an example of a page, gives the job what the
// system gives it, and runs what the system would run.

type object = map[string]any

func parse(t *testing.T, text string) object {
	t.Helper()
	var found object
	if err := yaml.Unmarshal([]byte(text), &found); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return found
}

// one is the only member of an object.
func one(t *testing.T, o any) object {
	t.Helper()
	members, _ := o.(object)
	if len(members) != 1 {
		t.Fatalf("want one member, got %v", slices.Collect(maps.Keys(members)))
	}
	for _, value := range members {
		inner, _ := value.(object)
		return inner
	}
	return nil
}

func list(o any) []any {
	found, _ := o.([]any)
	return found
}

// texts reads a text, or a list of them.
func texts(o any) (found []string) {
	if text, is := o.(string); is {
		return []string{text}
	}
	for _, item := range list(o) {
		found = append(found, fmt.Sprint(item))
	}
	return found
}

func (j *job) setAll(o any) {
	members, _ := o.(object)
	for name, value := range members {
		j.env[name] = fmt.Sprint(value)
	}
}

// shell runs lines as one script that ends at the first failure.
func (j *job) shell(lines ...string) string {
	j.t.Helper()
	return j.mustRun("sh", "-ec", strings.Join(lines, "\n"))
}

// jobToken is one that the policies of these tests take, whatever the system.
func (j *job) jobToken() string { return j.b.Token(devkit.ProfileGitHub, nil) }

var expression = regexp.MustCompile(`\$\{\{ *([a-zA-Z0-9_.-]+) *\}\}`)

// runGitHub runs the steps of a workflow's only job, with this repository's
// actions, and then what follows the job. It gives the log as GitHub shows it.
func runGitHub(j *job, example block) string {
	workflow := parse(j.t, example.text)
	work := one(j.t, workflow["jobs"])
	permissions, _ := work["permissions"].(object)
	if permissions["id-token"] != "write" {
		j.t.Error("the job may not ask for a token")
	}
	j.onGitHub("")
	j.setAll(work["env"])
	g := &github{job: j, values: map[string]string{}}
	g.steps(list(work["steps"]))
	for _, state := range g.after {
		out, code := j.action(nil, state)
		if g.log += out; code != 0 {
			j.t.Errorf("post: exit code %d\n%s", code, out)
		}
	}
	return g.shown()
}

// github is a runner.
type github struct {
	*job
	values map[string]string // of expressions
	after  []map[string]string
	log    string
}

func (g *github) expand(text string) string {
	return expression.ReplaceAllStringFunc(text, func(e string) string {
		name := expression.FindStringSubmatch(e)[1]
		value, known := g.values[name]
		if !known {
			g.t.Errorf("the expression %s has no value", e)
		}
		return value
	})
}

func (g *github) inputs(with any) map[string]string {
	inputs := map[string]string{}
	members, _ := with.(object)
	for name, value := range members {
		inputs[name] = g.expand(fmt.Sprint(value))
	}
	return inputs
}

func (g *github) steps(steps []any) {
	g.t.Helper()
	for _, s := range steps {
		step, _ := s.(object)
		uses, _ := step["uses"].(string)
		uses, _, _ = strings.Cut(uses, "@")
		switch {
		case step["run"] != nil:
			g.run(step)
		case uses == "daypass/daypass/.github/actions/daypass":
			g.useAction(step)
		case uses == "daypass/daypass/.github/actions/daypass-run":
			g.useComposite(step)
		default:
			g.t.Errorf("nothing here runs a step %v", step)
		}
	}
}

func (g *github) run(step object) {
	g.t.Helper()
	before := maps.Clone(g.env)
	defer func() { g.env = before }()
	maps.Copy(g.env, g.inputs(step["env"]))
	g.log += g.shell(g.expand(step["run"].(string)))
}

func (g *github) useAction(step object) {
	g.t.Helper()
	lookFor(g.t, "node")
	out, code := g.action(g.inputs(step["with"]), nil)
	if g.log += out; code != 0 {
		g.t.Fatalf("the action: exit code %d\n%s", code, out)
	}
	if id, is := step["id"].(string); is {
		for name, value := range blocks(g.t, g.read("OUTPUT")) {
			g.values["steps."+id+".outputs."+name] = value
		}
	}
	maps.Copy(g.env, blocks(g.t, g.read("ENV")))
	g.after = append(g.after, blocks(g.t, g.read("STATE")))
}

// useComposite runs the steps of daypass-run.
func (g *github) useComposite(step object) {
	g.t.Helper()
	composite := composite(g.t)
	declared, _ := composite["inputs"].(object)
	given := g.inputs(step["with"])
	for name, about := range declared {
		value, is := given[name]
		if def, has := about.(object)["default"]; !is && has {
			value = fmt.Sprint(def)
		} else if !is {
			g.t.Errorf("the input %s is required", name)
		}
		g.values["inputs."+name] = value
		delete(given, name)
	}
	if len(given) > 0 {
		g.t.Errorf("inputs that daypass-run doesn't have: %v", given)
	}
	g.steps(list(composite["runs"].(object)["steps"]))
	// The credentials end with the step, not with the job.
	nothingLives(g.t, g.b)
	if _, err := os.Stat(g.path("temp/daypass-run.env")); err == nil {
		g.t.Error("the file with the credentials is still there")
	}
}

func composite(t *testing.T) object {
	t.Helper()
	text, err := os.ReadFile(root + "/.github/actions/daypass-run/action.yml")
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

func compositeScripts(t *testing.T) (found []string) {
	t.Helper()
	for _, step := range list(composite(t)["runs"].(object)["steps"]) {
		if script, is := step.(object)["run"].(string); is {
			found = append(found, script)
		}
	}
	if len(found) == 0 {
		t.Fatal("daypass-run has no script")
	}
	return found
}

// shown is the log with what was masked replaced, without the commands.
func (g *github) shown() string {
	log := addMask.ReplaceAllString(g.log, "")
	var masks []string
	for _, m := range addMask.FindAllStringSubmatch(g.log, -1) {
		masks = append(masks, strings.NewReplacer("%0A", "\n", "%0D", "\r", "%25", "%").Replace(m[1]))
	}
	slices.SortFunc(masks, func(a, b string) int { return len(b) - len(a) })
	for _, mask := range masks {
		log = strings.ReplaceAll(log, mask, "***")
	}
	return log
}

// runGitLab runs a job of a pipeline that may include this repository's template
// or component.
func runGitLab(j *job, example block) string {
	j.t.Helper()
	pipeline := parse(j.t, example.text)
	j.setAll(pipeline["variables"])
	delete(pipeline, "variables")
	include := pipeline["include"]
	delete(pipeline, "include")
	var work object
	if list(include) != nil {
		work = one(j.t, gitlabComponent(j, list(include)[0].(object)))
	} else {
		work = one(j.t, pipeline)
	}
	if work["extends"] != nil {
		text, err := os.ReadFile(root + "/clients/gitlab/daypass.gitlab-ci.yml")
		if err != nil {
			j.t.Fatal(err)
		}
		templates := parse(j.t, string(text))
		for work["extends"] != nil {
			base, is := templates[work["extends"].(string)].(object)
			if !is {
				j.t.Fatalf("the template has no %v", work["extends"])
			}
			delete(work, "extends")
			extend(work, base)
		}
	}
	return j.gitlabJob(work)
}

// extend merges a job into the one that extends it, as GitLab does: objects by
// their members, all else as a whole.
func extend(work, base object) {
	for name, value := range base {
		own, is := work[name].(object)
		inherited, are := value.(object)
		switch {
		case is && are:
			extend(own, inherited)
		case work[name] == nil:
			work[name] = value
		}
	}
}

func (j *job) gitlabJob(work object) string {
	j.t.Helper()
	maps.Copy(j.env, map[string]string{"GITLAB_CI": "true", "CI": "true", "CI_BUILDS_DIR": j.dir, "CI_JOB_ID": "302"})
	expand := func(text string) string { return os.Expand(text, func(name string) string { return j.env[name] }) }
	variables, _ := work["variables"].(object)
	for name, value := range variables {
		if about, is := value.(object); is && about["expand"] == false {
			j.env[name] = about["value"].(string)
		} else {
			j.env[name] = expand(fmt.Sprint(value))
		}
	}
	tokens, _ := work["id_tokens"].(object)
	for name, about := range tokens {
		if audience := expand(about.(object)["aud"].(string)); audience != brokertest.Audience {
			j.t.Errorf("the audience of %s is %q", name, audience)
		}
		j.env[name] = j.b.Token(devkit.ProfileGitLab, nil)
	}
	out := j.shell(append(texts(work["before_script"]), texts(work["script"])...)...)
	if after := texts(work["after_script"]); after != nil {
		j.env["CI_JOB_STATUS"] = "success"
		out += j.shell(after...)
	}
	return out
}

// gitlabComponent reads the component with its inputs put in.
func gitlabComponent(j *job, include object) object {
	j.t.Helper()
	if want := "$CI_SERVER_FQDN/daypass/daypass/daypass@main"; include["component"] != want {
		j.t.Errorf("the component is %v", include["component"])
	}
	text, err := os.ReadFile(root + "/templates/daypass/template.yml")
	if err != nil {
		j.t.Fatal(err)
	}
	head, body, found := strings.Cut(string(text), "\n---\n")
	if !found {
		j.t.Fatal("a component has two documents")
	}
	spec, _ := parse(j.t, head)["spec"].(object)
	declared, _ := spec["inputs"].(object)
	given, _ := include["inputs"].(object)
	for name := range given {
		if declared[name] == nil {
			j.t.Errorf("the component has no input %s", name)
		}
	}
	for name, about := range declared {
		value, is := given[name]
		if !is {
			value, is = about.(object)["default"]
		}
		if !is {
			j.t.Errorf("the input %s is required", name)
		}
		if pattern, has := about.(object)["regex"].(string); has && !regexp.MustCompile(pattern).MatchString(fmt.Sprint(value)) {
			j.t.Errorf("the input %s doesn't match its pattern", name)
		}
		body = strings.ReplaceAll(body, "$[[ inputs."+name+" ]]", fmt.Sprint(value))
	}
	if strings.Contains(body, "$[[") {
		j.t.Errorf("what is left of the component's inputs:\n%s", body)
	}
	return parse(j.t, body)
}

func runBuildkite(j *job, example block) string {
	pipeline := parse(j.t, example.text)
	j.env["BUILDKITE"] = "true"
	j.setAll(pipeline["env"])
	j.program("buildkite-agent", "#!/bin/sh\n[ \"$*\" = 'oidc request-token --audience "+brokertest.Audience+"' ] && echo '"+j.jobToken()+"'\n")
	step, _ := list(pipeline["steps"])[0].(object)
	return j.shell(append(texts(step["command"]), texts(step["commands"])...)...)
}

func runCircle(j *job, example block) string {
	work := one(j.t, parse(j.t, example.text)["jobs"])
	j.env["CIRCLECI"] = "true"
	j.env["CIRCLE_OIDC_TOKEN_V2"] = j.b.Hide("e30.e30.signature-of-a-token-for-somebody-else")
	j.setAll(work["environment"])
	j.program("circleci", "#!/bin/sh\n[ \"$*\" = 'run oidc get --claims {\"aud\":\""+brokertest.Audience+"\"}' ] && echo '"+j.jobToken()+"'\n")
	step, _ := list(work["steps"])[0].(object)
	return j.shell(texts(step["run"])...)
}

func runBitbucket(j *job, example block) string {
	branches := one(j.t, parse(j.t, example.text)["pipelines"])
	main, _ := list(branches["main"])[0].(object)
	step := one(j.t, main)
	j.env["BITBUCKET_BUILD_NUMBER"] = "7"
	if step["oidc"] == true {
		j.env["BITBUCKET_STEP_OIDC_TOKEN"] = j.jobToken()
	}
	return j.shell(texts(step["script"])...)
}

var (
	groovyVariable = regexp.MustCompile(`(?m)^\s+([A-Z_]+) = ['"](.*)['"]$`)
	groovyScript   = regexp.MustCompile(`(?s)\bsh (?:'''(.*?)'''|'([^'\n]*)')`)
)

func runJenkins(j *job, example block) (out string) {
	j.t.Helper()
	for _, m := range groovyVariable.FindAllStringSubmatch(example.text, -1) {
		j.env[m[1]] = strings.ReplaceAll(m[2], "${env.WORKSPACE_TMP}", j.dir)
	}
	if !strings.Contains(example.text, "variable: 'DAYPASS_JOB_TOKEN'") {
		j.t.Error("the job has no token")
	}
	scripts := groovyScript.FindAllStringSubmatch(example.text, -1)
	if len(scripts) != 2 {
		j.t.Fatalf("%d scripts, want the stage's and the one that follows", len(scripts))
	}
	for i, m := range scripts {
		j.env["DAYPASS_JOB_TOKEN"] = ""
		if i == 0 {
			j.env["DAYPASS_JOB_TOKEN"] = j.jobToken()
		}
		out += j.shell(m[1] + m[2])
	}
	return out
}

func runAzure(j *job, example block) string {
	step, _ := list(parse(j.t, example.text)["steps"])[0].(object)
	token := j.jobToken()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer step-token" || r.URL.Query().Get("api-version") == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = fmt.Fprintf(w, `{"oidcToken": %q}`, token)
	}))
	defer server.Close()
	j.env["TF_BUILD"] = "True"
	j.env["SYSTEM_OIDCREQUESTURI"] = server.URL
	env, _ := step["env"].(object)
	for name, value := range env {
		j.env[name] = strings.ReplaceAll(fmt.Sprint(value), "$(System.AccessToken)", "step-token")
	}
	return j.shell(texts(step["script"])...)
}

func runKubernetes(j *job, example block) string {
	manifest := parse(j.t, strings.ReplaceAll(example.text, "/var/run/secrets/daypass", j.dir))
	pod, _ := manifest["spec"].(object)["template"].(object)["spec"].(object)
	container, _ := list(pod["containers"])[0].(object)
	for _, entry := range list(container["env"]) {
		variable, _ := entry.(object)
		j.env[variable["name"].(string)] = fmt.Sprint(variable["value"])
	}
	volume, _ := list(pod["volumes"])[0].(object)
	source, _ := list(volume["projected"].(object)["sources"])[0].(object)
	token := one(j.t, source)
	if token["audience"] != brokertest.Audience {
		j.t.Errorf("the audience is %v", token["audience"])
	}
	j.write(token["path"].(string), j.jobToken())
	command := texts(container["command"])
	return j.mustRun(programs(j.t)+"/"+command[0], command[1:]...)
}

func runTerraform(j *job, example block) string {
	name := "DAYPASS_JOB_TOKEN"
	if strings.Contains(example.text, "TFC_") {
		name = "TFC_WORKLOAD_IDENTITY_TOKEN"
	}
	j.env[name] = j.jobToken()
	j.env["DAYPASS_URL"] = j.b.URL
	return j.shell(example.text)
}
