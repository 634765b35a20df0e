// Command daypass is the client of the broker: it runs inside CI jobs, where it
// gives the job's OIDC token for credentials that live for minutes, and on
// admins' machines, where it shows and revokes what was issued.
//
//	exchange   credentials for this job, printed
//	exec       one command with credentials in its environment, given back when it ends
//	redact     secrets masked: in a text, a log that grows, a finished job's log
//	lease      what was issued: list, show, renew, revoke
//	session    what this job holds: show, give back
//	audit      what happened
//	doctor     what stands between this job and its credentials
//	policy     policies: check, test, explain, compare, lay out, write; offline
//
// Exit codes: 0 ok, 1 failed, 2 usage, 3 denied by the broker; exec passes on
// those of its command.
package main

import (
	"context"
	"os"
)

// version is set when a release is built: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) == 2 && os.Args[1] == commandWatchdog { // before anything costs time
		beWatchdog(context.Background(), os.Stdin)
		return 0
	}
	p := &program{self: ownProgram(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	return p.main(context.Background(), os.Args[1:])
}
