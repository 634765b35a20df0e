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
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/instance"
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
	headerLimit  = 64 << 10
	readTimeout  = 15 * time.Second
	writeTimeout = 60 * time.Second
	idleTimeout  = 2 * time.Minute
)

// serve runs a broker until ctx ends, lets running requests finish, and closes
// what it opened.
func serve(ctx context.Context, settings *config.Config, how serving) error {
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
	listener, err := listen(ctx, settings.Listen, settings)
	if err != nil {
		return err
	}
	servers := []*http.Server{newServer(i.API(settings.AdminListen == ""), how.Logger)}
	listeners := []net.Listener{listener}
	if settings.AdminListen != "" {
		operations, err := listen(ctx, settings.AdminListen, nil)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		servers, listeners = append(servers, newServer(i.Operations(), how.Logger)), append(listeners, operations)
	}

	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	var running sync.WaitGroup
	running.Go(func() { i.Run(working) })
	failed := make(chan error, len(servers))
	for n, s := range servers {
		running.Go(func() {
			if err := s.Serve(listeners[n]); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving on %s: %w", listeners[n].Addr(), err)
			}
		})
	}
	how.Logger.InfoContext(ctx, "serving", "address", listener.Addr().String(), "installation", i.Installation, "version", version,
		"signing_key", parts.Signer.KeyID(), "external_url", settings.ExternalURL)
	if how.Ready != nil {
		how.Ready(listener.Addr().String())
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	how.Logger.InfoContext(ctx, "stopping: running requests finish, new exchanges are answered with 503")
	i.Drain()
	stopping, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), drainTime, errors.New("requests took longer than the shutdown allows"))
	defer cancel()
	for _, s := range servers {
		err = errors.Join(err, s.Shutdown(stopping))
	}
	stopWorking()
	running.Wait()
	return err
}

func newServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: handler, MaxHeaderBytes: headerLimit, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // TLS handshakes of scanners and the like
	}
}

// listen opens a port; with TLS where the configuration has it.
func listen(ctx context.Context, address string, settings *config.Config) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	if settings == nil || !settings.TLS.Enabled() {
		return listener, nil
	}
	certificate := &reloadingCertificate{certFile: settings.TLS.CertFile, keyFile: settings.TLS.KeyFile}
	if _, err := certificate.get(nil); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.get, NextProtos: []string{"h2", "http/1.1"}}), nil
}

// reloadingCertificate reads the files again when one of them has changed. A
// pair that doesn't fit together (half of a renewal) leaves the old one in use.
type reloadingCertificate struct {
	certFile, keyFile string

	mu       sync.Mutex
	current  *tls.Certificate
	modified [2]time.Time
}

func (r *reloadingCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	modified := [2]time.Time{}
	for i, name := range []string{r.certFile, r.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			if r.current != nil {
				return r.current, nil
			}
			return nil, fmt.Errorf("reading TLS certificate: %w", err)
		}
		modified[i] = info.ModTime()
	}
	if r.current != nil && modified == r.modified {
		return r.current, nil
	}
	pair, err := tls.LoadX509KeyPair(r.certFile, r.keyFile)
	if err != nil {
		if r.current != nil {
			return r.current, nil
		}
		return nil, fmt.Errorf("reading TLS certificate: %w", err)
	}
	r.current, r.modified = &pair, modified
	return r.current, nil
}
