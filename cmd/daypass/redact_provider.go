package main

import (
	"archive/zip"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/client"
)

const (
	providerTimeout = 15 * time.Minute // of reading one log
	maxRedirects    = 3
	maxLogFiles     = 10_000 // of the archive of a run

	githubCloud = "https://github.com"
	gitlabCloud = "https://gitlab.com"
)

// jobRun is a finished job, or all jobs of one run, at its provider.
type jobRun struct {
	provider string // github, gitlab
	server   string // https://github.com
	project  string // OWNER/REPO, GROUP/PROJECT
	id       string // of GitHub's run, of GitLab's job
	attempt  string // of GitHub's run; the last when empty
	job      string // of GitHub's job; all of the run when empty
}

// What brokers put on record as a lease's run, what people copy from their browser,
// and names for who has neither.
const (
	githubRun = `^(?P<server>https?://[^/?#]+)/(?P<project>[^/?#]+/[^/?#]+)/actions/runs/(?P<id>\d+)(?:/attempts/(?P<attempt>\d+))?(?:/job/(?P<job>\d+))?/?(?:[?#].*)?$`
	gitlabJob = `^(?P<server>https?://[^/?#]+)/(?P<project>[^?#]+?)/-/jobs/(?P<id>\d+)(?:/raw)?/?(?:[?#].*)?$`
	namedRun  = `^(?P<provider>github|gitlab):(?P<project>[^:?#]+)/(?P<id>\d+)$`
)

// parseRun reads what --job says. Only hosts of the providers themselves, and those
// that the environment of a job names as its own, are ever sent a token.
func parseRun(text string) (*jobRun, error) {
	at := &jobRun{}
	switch {
	case at.take("github", githubRun, text), at.take("gitlab", gitlabJob, text), at.take("", namedRun, text):
	default:
		return nil, usage("--job: write the URL of the run's or job's page, github:OWNER/REPO/RUN or gitlab:GROUP/PROJECT/JOB")
	}
	own := at.ownServer()
	if at.server == "" {
		at.server = own
	}
	u, err := url.Parse(at.server)
	if err != nil || u.User != nil || u.Scheme != "https" && !client.IsLoopback(u.Hostname()) {
		return nil, usage("--job: the server's URL can't be used (hint: https://HOST)")
	}
	// A GitLab that stands under a path has it in front of the project's.
	if prefix, ok := strings.CutPrefix(own, at.server+"/"); ok && at.provider == "gitlab" && strings.HasPrefix(at.project, prefix+"/") {
		at.server, at.project = own, strings.TrimPrefix(at.project, prefix+"/")
	}
	if at.server != own && at.server != githubCloud && at.server != gitlabCloud && !strings.HasSuffix(u.Hostname(), ".ghe.com") {
		return nil, usage("--job: %s is no provider that is known here: the token is not sent there (hint: set %s to its URL)", u.Host, at.serverVariable())
	}
	if at.project, err = url.PathUnescape(at.project); err != nil || strings.Contains(at.project, "..") {
		return nil, usage("--job: the project's name can't be used")
	}
	return at, nil
}

// name is the run as --job takes it too, with nothing else that a URL may hold.
func (r *jobRun) name() string { return r.provider + ":" + r.project + "/" + r.id }

// take reads text where it has a shape.
func (r *jobRun) take(provider, expression, text string) bool {
	shape := regexp.MustCompile(expression)
	found := shape.FindStringSubmatch(text)
	if found == nil {
		return false
	}
	r.provider = provider
	for i, name := range shape.SubexpNames() {
		switch name {
		case "provider":
			r.provider = found[i]
		case "server":
			r.server = found[i]
		case "project":
			r.project = found[i]
		case "id":
			r.id = found[i]
		case "attempt":
			r.attempt = found[i]
		case "job":
			r.job = found[i]
		}
	}
	return true
}

// serverVariable is set by the provider's runners, and by whoever works elsewhere.
func (r *jobRun) serverVariable() string {
	if r.provider == "github" {
		return "GITHUB_SERVER_URL"
	}
	return "CI_SERVER_URL"
}

func (r *jobRun) ownServer() string {
	cloud := githubCloud
	if r.provider == "gitlab" {
		cloud = gitlabCloud
	}
	return strings.TrimRight(cmp.Or(os.Getenv(r.serverVariable()), cloud), "/")
}

func (r *jobRun) host() string {
	u, err := url.Parse(r.server)
	if err != nil {
		return r.provider
	}
	return u.Host
}

// api is the base of the provider's API: github.com has a host of its own for it,
// Enterprise Server and GitLab a path.
func (r *jobRun) api() string {
	switch host := r.host(); {
	case r.provider == "gitlab":
		return r.server + "/api/v4/projects/" + url.PathEscape(r.project)
	case r.server == githubCloud || strings.HasSuffix(host, ".ghe.com"):
		return "https://api." + host + "/repos/" + r.repository()
	default:
		return r.server + "/api/v3/repos/" + r.repository()
	}
}

func (r *jobRun) repository() string {
	owner, name, _ := strings.Cut(r.project, "/")
	return url.PathEscape(owner) + "/" + url.PathEscape(name)
}

// canErase refuses to delete more than what was copied.
func (r *jobRun) canErase() error {
	if r.job != "" {
		return usage("--erase: GitHub deletes the logs of a whole run, and this is one job's (hint: give the run's URL)")
	}
	return nil
}

// fetch writes the log to a file: that of one job, or one after the other those of a run.
func (r *jobRun) fetch(ctx context.Context, to *os.File) error {
	path := "/actions/runs/" + r.id + "/logs"
	switch {
	case r.provider == "gitlab":
		path = "/jobs/" + r.id + "/trace"
	case r.job != "":
		path = "/actions/jobs/" + r.job + "/logs"
	case r.attempt != "":
		path = "/actions/runs/" + r.id + "/attempts/" + r.attempt + "/logs"
	}
	ctx, cancel := context.WithTimeoutCause(ctx, providerTimeout, fmt.Errorf("not read within %v", providerTimeout))
	defer cancel()
	response, err := r.ask(ctx, http.MethodGet, r.api()+path)
	if err != nil {
		return fmt.Errorf("reading the job's log: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind == "text/html" {
		return errors.New("reading the job's log: the answer is a web page, not a log")
	}
	whole := r.provider == "github" && r.job == ""
	if !whole {
		return copyBounded(to, response.Body)
	}
	packed, err := nameless()
	if err != nil {
		return err
	}
	defer packed.Close() //nolint:errcheck // it is gone with it
	if err := copyBounded(packed, response.Body); err != nil {
		return err
	}
	return unpack(packed, to)
}

func copyBounded(to io.Writer, from io.Reader) error {
	n, err := io.Copy(to, io.LimitReader(from, maxJobLog+1))
	if err == nil && n > maxJobLog {
		err = fmt.Errorf("it has more than %d bytes", maxJobLog)
	}
	if err != nil {
		return fmt.Errorf("reading the job's log: %w", err)
	}
	return nil
}

// unpack writes the logs of a run's jobs one after the other. The archive has each
// job's at the top, and the same once more by steps in folders.
func unpack(packed, to *os.File) error {
	size, err := packed.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading the run's logs: %w", err)
	}
	archive, err := zip.NewReader(packed, size)
	if err != nil {
		return fmt.Errorf("reading the run's logs: %w", err)
	}
	if len(archive.File) > maxLogFiles {
		return fmt.Errorf("reading the run's logs: more than %d files", maxLogFiles)
	}
	var top []*zip.File
	for _, f := range archive.File {
		if !strings.Contains(f.Name, "/") {
			top = append(top, f)
		}
	}
	if len(top) == 0 {
		top = slices.DeleteFunc(archive.File, func(f *zip.File) bool { return strings.HasSuffix(f.Name, "/") })
	}
	left := int64(maxJobLog)
	for _, f := range top {
		n, err := unpackFile(f, to, left)
		if err == nil && n > left {
			err = fmt.Errorf("they have more than %d bytes", maxJobLog)
		}
		if err != nil {
			return fmt.Errorf("reading the run's logs: %w", err)
		}
		left -= n
	}
	return nil
}

func unpackFile(f *zip.File, to io.Writer, left int64) (int64, error) {
	from, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer from.Close() //nolint:errcheck // it was only read
	if _, err := fmt.Fprintf(to, "==> %s <==\n", clean(f.Name)); err != nil {
		return 0, err
	}
	return io.Copy(to, io.LimitReader(from, left+1))
}

// erase deletes the log at the provider.
func (r *jobRun) erase(ctx context.Context) error {
	method, address := http.MethodDelete, r.api()+"/actions/runs/"+r.id+"/logs"
	if r.provider == "gitlab" {
		method, address = http.MethodPost, r.api()+"/jobs/"+r.id+"/erase"
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("no answer within a minute"))
	defer cancel()
	response, err := r.ask(ctx, method, address)
	if err != nil {
		return fmt.Errorf("deleting the log at %s (the masked copy is written): %w", r.host(), err)
	}
	return response.Body.Close()
}

// ask sends a request with the provider's token. Where its answer leads elsewhere,
// that is asked without: such addresses carry a signature of their own.
func (r *jobRun) ask(ctx context.Context, method, address string) (*http.Response, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
	}
	asking := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	authorized := true
	for range maxRedirects + 1 {
		request, err := http.NewRequestWithContext(ctx, method, address, nil)
		if err != nil {
			return nil, errors.New("the URL can't be used")
		}
		request.Header.Set("User-Agent", "daypass/"+version)
		if authorized {
			r.authorize(request)
		}
		response, err := asking.Do(request)
		if err != nil {
			if e, ok := errors.AsType[*url.Error](err); ok {
				err = e.Err // the address may carry a signature
			}
			return nil, err
		}
		switch {
		case response.StatusCode/100 == 2:
			return response, nil
		case response.StatusCode/100 != 3 || method != http.MethodGet:
			_ = response.Body.Close()
			return nil, r.refused(response.StatusCode)
		}
		_ = response.Body.Close()
		next, err := response.Location()
		if err != nil || next.User != nil || next.Scheme != "https" && !client.IsLoopback(next.Hostname()) {
			return nil, errors.New("the answer leads to a URL that can't be used")
		}
		address, authorized = next.String(), false
	}
	return nil, fmt.Errorf("the answer leads on more than %d times", maxRedirects)
}

func (r *jobRun) authorize(request *http.Request) {
	if r.provider == "gitlab" {
		if token := os.Getenv("GITLAB_TOKEN"); token != "" {
			request.Header.Set("Private-Token", token)
		}
		return
	}
	request.Header.Set("Accept", "application/vnd.github+json")
	request.Header.Set("X-Github-Api-Version", "2022-11-28")
	if token := os.Getenv("GITHUB_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
}

func (r *jobRun) refused(status int) error {
	hint := ""
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		hint = " (hint: GITHUB_TOKEN needs `actions: read`, and `write` for --erase)"
		if r.provider == "gitlab" {
			hint = " (hint: GITLAB_TOKEN needs the scope read_api, and api for --erase)"
		}
	case http.StatusGone:
		hint = " (hint: the log is gone: its time is over, or it was deleted)"
	}
	return fmt.Errorf("%s answers %d %s%s", r.host(), status, http.StatusText(status), hint)
}
