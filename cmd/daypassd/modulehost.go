package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/isolated"
	"github.com/daypass/daypass/broker/keys/pkcs11"
)

const moduleHostCommand = "module-host"

// newModuleHost is the child in which an HSM's module runs, where a key says
// `isolate: true`. It is no command for people.
func newModuleHost() *cobra.Command {
	return &cobra.Command{
		Use: moduleHostCommand, Hidden: true, Args: noArguments,
		Short:   "Hold a PKCS#11 module for a broker that says isolate: true; the broker starts it",
		Example: "  daypassd serve --config daypass.yaml     with `isolate: true` at a key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			// The broker ends us, by closing the pipe, once it has drained; what is sent to
			// all of a service's processes doesn't.
			signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			in, out, err := isolated.Pipes()
			if err != nil {
				return usageError{fmt.Errorf("%w (hint: the broker starts this by itself)", err)}
			}
			return isolated.Serve(context.WithoutCancel(cmd.Context()), in, out, openModule)
		},
	}
}

// openModule opens the token in the child.
func openModule(ctx context.Context, h *isolated.Hello) (keys.Store, io.Closer, error) {
	t, err := pkcs11.Open(ctx, *h)
	if err != nil {
		return nil, nil, err
	}
	return t, t, nil
}

// isolateToken opens a token in a child.
func isolateToken(ctx context.Context, k config.Key, settings pkcs11.Config, logger *slog.Logger) (*isolated.Store, error) {
	environment := isolated.Environment(os.Environ(), k.IsolateEnv...)
	program, err := ownProgram()
	if err != nil {
		return nil, err
	}
	return isolated.Open(ctx, isolated.Config{
		Command: func() *exec.Cmd {
			// Not bound to a context: the child outlives the request that starts it.
			return &exec.Cmd{Path: program, Args: []string{"daypassd", moduleHostCommand}, Dir: "/", Env: environment}
		},
		Hello: settings, Logger: logger, Now: time.Now,
	})
}

// ownProgram is this very program, also after another was put in its place: two
// versions would not understand each other.
func ownProgram() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}
