package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/reloader"
)

func newServe() *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Run the broker",
		Example: "  daypassd serve --config /etc/daypass/daypass.yaml",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := file.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), settings, serving{Logger: newLogger(settings)})
		},
	}
	file.flag(cmd)
	return cmd
}

// serving is what `serve` and `dev` do differently.
type serving struct {
	Logger *slog.Logger
	Ready  func(address string) // called once requests are answered; may be nil
}

func newLogger(settings *config.Config) *slog.Logger {
	level := slog.LevelInfo
	if settings.Log.Level != "" {
		_ = level.UnmarshalText([]byte(settings.Log.Level)) // checked when the file was read
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

const (
	drainTime    = 30 * time.Second // for requests that run when we are told to stop
	headerLimit  = 64<<10 - 4<<10   // net/http lets 4 KiB more through
	readTimeout  = 15 * time.Second
	writeTimeout = 60 * time.Second
	idleTimeout  = 2 * time.Minute
)

// serve runs a broker until ctx ends, lets running requests finish, and closes
// what it opened.
func serve(ctx context.Context, settings *config.Config, how serving) error {
	hangups := make(chan os.Signal, 1) // one that comes while we start is kept
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	parts, closeParts, err := assemble(ctx, settings, how.Logger)
	if err != nil {
		return err
	}
	defer closeParts()
	i, err := instance.Open(ctx, *parts)
	if err != nil {
		return err
	}
	defer i.Close()
	listener, err := listen(ctx, settings.Listen, settings, how.Logger)
	if err != nil {
		return err
	}
	var exchanges underway
	servers := []*http.Server{newServer(exchanges.count(i.API(settings.AdminListen == "")), how.Logger)}
	listeners := []net.Listener{listener}
	addresses := []any{"address", listener.Addr().String()}
	if settings.AdminListen != "" {
		operations, err := listen(ctx, settings.AdminListen, settings, how.Logger)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		servers, listeners = append(servers, newServer(i.Operations(), how.Logger)), append(listeners, operations)
		addresses = append(addresses, "admin_address", operations.Addr().String())
	}

	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	var running sync.WaitGroup
	running.Go(func() { i.Run(working) })
	running.Go(func() { reloadOn(working, hangups, i) })
	failed := make(chan error, len(servers))
	for n, s := range servers {
		running.Go(func() {
			if err := s.Serve(listeners[n]); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving on %s: %w", listeners[n].Addr(), err)
			}
		})
	}
	how.Logger.InfoContext(ctx, "serving", append(addresses, "installation", i.Installation, "version", version,
		"signing_key", i.Keys().Signer().KeyID(), "external_url", settings.ExternalURL)...)
	if how.Ready != nil {
		how.Ready(listener.Addr().String())
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	i.Drain()
	how.Logger.InfoContext(ctx, "stopping: running requests finish, new exchanges are answered with 503")
	err = errors.Join(err, shutDown(ctx, servers, &exchanges))
	stopWorking()
	running.Wait()
	return err
}

// reloadOn reads the policies again on each signal. What goes wrong is in the log.
func reloadOn(ctx context.Context, hangups <-chan os.Signal, i *instance.Instance) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			_, _ = i.Reload(ctx, reloader.Trigger{Actor: "daypassd", By: "SIGHUP"})
		}
	}
}

// shutDown lets running requests finish, and cuts off those that take too long.
func shutDown(ctx context.Context, servers []*http.Server, exchanges *underway) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	exchanges.wait(ctx)
	for _, s := range servers {
		if s.Shutdown(ctx) != nil {
			err = errors.Join(err, fmt.Errorf("stopping: requests took longer than %s and were cut off", drainTime), s.Close())
		}
	}
	return err
}

// underway counts requests, so that connections stay open while the last of
// them finish: whoever asks for something new on one is then told so (503), where
// a closed connection would leave them guessing.
type underway struct {
	mu       sync.Mutex
	running  int
	stopping bool
	done     chan struct{} // made by wait
}

func (u *underway) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		late := u.stopping
		if !late {
			u.running++
		}
		u.mu.Unlock()
		if !late {
			defer u.finished()
		}
		next.ServeHTTP(w, r)
	})
}

func (u *underway) finished() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running--
	if u.stopping && u.running == 0 {
		close(u.done)
	}
}

// wait returns when the requests that run now have ended, or ctx has; later
// ones don't count. It is called once.
func (u *underway) wait(ctx context.Context) {
	u.mu.Lock()
	u.stopping, u.done = true, make(chan struct{})
	if u.running == 0 {
		close(u.done)
	}
	u.mu.Unlock()
	select {
	case <-u.done:
	case <-ctx.Done():
	}
}

func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: handler, MaxHeaderBytes: headerLimit, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // TLS handshakes of scanners and the like
	}
}

// listen opens a port; with TLS where the configuration has it.
func listen(ctx context.Context, address string, settings *config.Config, logger *slog.Logger) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	if !settings.TLS.Enabled() {
		return listener, nil
	}
	certificate := &reloadingCertificate{certFile: settings.TLS.CertFile, keyFile: settings.TLS.KeyFile, logger: logger}
	if _, err := certificate.get(nil); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	// A resource server's certificate is known by its hash, whoever signed it.
	asks := tls.NoClientCert
	if slices.ContainsFunc(settings.ResourceServers, func(r config.ResourceServer) bool { return r.ClientCertificateSHA256 != "" }) {
		asks = tls.RequestClientCert
	}
	return tls.NewListener(listener, &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: certificate.get, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: asks,
	}), nil
}

// reloadingCertificate reads the files again when one of them has changed. A
// pair that doesn't fit together (half of a renewal) leaves the old one in use.
type reloadingCertificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu        sync.Mutex
	current   *tls.Certificate
	modified  [2]time.Time
	complaint string // the last that was logged, so that it isn't at every handshake
}

func (r *reloadingCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	modified := [2]time.Time{}
	for i, name := range []string{r.certFile, r.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return r.keep(err)
		}
		modified[i] = info.ModTime()
	}
	if r.current != nil && modified == r.modified {
		return r.current, nil
	}
	pair, err := tls.LoadX509KeyPair(r.certFile, r.keyFile)
	if err != nil {
		return r.keep(err)
	}
	if r.current != nil {
		r.logger.Info("the TLS certificate was read again", "file", r.certFile, "until", pair.Leaf.NotAfter)
	}
	r.current, r.modified, r.complaint = &pair, modified, ""
	return r.current, nil
}

// keep goes on with the certificate that there is.
func (r *reloadingCertificate) keep(why error) (*tls.Certificate, error) {
	if r.current == nil {
		return nil, fmt.Errorf("reading TLS certificate: %w", why)
	}
	if text := why.Error(); text != r.complaint {
		r.complaint = text
		r.logger.Warn("the TLS certificate could not be read again; the former one stays in use", "error", why, "until", r.current.Leaf.NotAfter)
	}
	return r.current, nil
}
