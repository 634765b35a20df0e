//go:build unix

package devkit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrInUse says that another living process has started a server on the same folder.
var ErrInUse = errors.New("another process runs a PostgreSQL server here")

// What stands in a server's home.
const (
	dataName      = "data"          // the cluster, owned by the account that runs it
	newDataName   = "data.new"      // a cluster that initdb has not finished
	socketName    = "sock"          // the socket's folder, mode 0700
	logName       = "log"           // what the server prints
	passwordName  = "password"      // the superuser's, mode 0600
	portName      = "port"          // the TCP port of the last start
	shortSockName = "socket-folder" // where the socket is, when the path here is too long for one
	ephemeralName = "ephemeral"     // marks data that may be thrown away
	lockName      = "lock"          // held by the process that runs the server
	movedName     = "moved-to"      // in Dir alone: a link to the home, when the account can't reach Dir
)

const (
	tempPattern     = "daypass-pg-*"
	shortSockPrefix = "daypass-sock-"
	// movedBase holds the homes of folders that the account can't reach.
	movedBase = "/var/lib/daypass/dev"
	// maxSocketPath is what the shortest sun_path holds (macOS; Linux has 107), without the closing NUL.
	maxSocketPath = 103
)

// home is the folder that holds everything of one server. Root opens files in it through an os.Root, so that a folder of somebody else
// can't lead it astray by a link.
type home struct {
	*os.Root
	dir    string // absolute, without links
	lock   *os.File
	temp   bool   // the folder is ours alone, and goes when the server does
	marker string // link in Dir that leads here; empty where home and Dir are one
}

func (h *home) path(name string) string { return filepath.Join(h.dir, name) }

func (h *home) has(name string) bool {
	_, err := h.Lstat(name)
	return err == nil
}

// openHome finds or makes the home for cfg and locks it. As root, a Dir that the account can't reach (one below /root, say) gets its
// home in /var/lib/daypass/dev, with a link to it in Dir.
func openHome(ctx context.Context, cfg PostgresConfig, acc account, bin programs) (*home, error) {
	if cfg.Dir == "" {
		return tempHome(ctx, acc, bin)
	}
	dir, err := makeDir(cfg.Dir, acc)
	if err != nil {
		return nil, err
	}
	h := &home{dir: dir}
	marker := filepath.Join(dir, movedName)
	if _, err := os.Lstat(marker); err == nil || !acc.reaches(ctx, bin, dir) {
		if cfg.Ephemeral {
			return tempHome(ctx, acc, bin)
		}
		sum := sha256.Sum256([]byte(dir))
		h.dir = filepath.Join(movedBase, hex.EncodeToString(sum[:8]))
		h.marker = marker
		if err := os.MkdirAll(h.dir, 0o755); err != nil { //nolint:gosec // G301: the account has to pass through; the data below is 0700
			return nil, fmt.Errorf("making a folder for PostgreSQL that user %s can reach: %w\nhint: %s is closed to it; choose another folder", acc.name, err, dir)
		}
	}
	return h, h.open()
}

// makeDir makes a folder that the account can pass through where it is root who makes it, and returns its path without links.
func makeDir(dir string, acc account) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding the folder for PostgreSQL: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // G301: the folder itself is closed below
			return "", fmt.Errorf("making the folder for PostgreSQL: %w", err)
		}
		if err := os.Chmod(dir, acc.folderMode()); err != nil {
			return "", fmt.Errorf("making the folder for PostgreSQL: %w", err)
		}
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", fmt.Errorf("finding the folder for PostgreSQL: %w", err)
	}
	return dir, nil
}

// folderMode lets the account pass through a folder of root's without reading it.
func (a account) folderMode() fs.FileMode {
	if a.lent {
		return 0o711
	}
	return 0o700
}

// tempHome makes a home in the first temporary folder that the account can reach.
func tempHome(ctx context.Context, acc account, bin programs) (*home, error) {
	sweepTemp(ctx, acc, os.TempDir())
	var err error
	for _, base := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		var dir string
		if dir, err = os.MkdirTemp(base, tempPattern); err != nil {
			continue
		}
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			continue
		}
		if err = os.Chmod(dir, acc.folderMode()); err == nil && acc.reaches(ctx, bin, dir) {
			h := &home{dir: dir, temp: true}
			return h, h.open()
		}
		if err == nil {
			err = fmt.Errorf("user %s can't reach %s", acc.name, base)
		}
		_ = os.RemoveAll(dir) // made a moment ago and still empty
	}
	return nil, fmt.Errorf("making a temporary folder for PostgreSQL: %w\nhint: TMPDIR must be open to the user that runs it", err)
}

// sweepTemp removes what killed processes left: finished clusters in homes that nobody holds the lock of.
func sweepTemp(ctx context.Context, acc account, base string) {
	dirs, err := filepath.Glob(filepath.Join(base, tempPattern))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !ownedBy(info, uint32(os.Geteuid())) { //nolint:gosec // G115: user ids fit
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, dataName)); err != nil {
			continue
		}
		h := &home{dir: dir, temp: true}
		if h.open() != nil {
			continue
		}
		if stopOrphan(ctx, h.path(dataName)) == nil {
			_ = h.discard(acc) // best effort: the next start tries again
		}
		h.release()
	}
}

// open opens the home and takes its lock. The kernel drops the lock with the process, so a free one means that whoever started a server
// here is gone.
func (h *home) open() error {
	root, err := os.OpenRoot(h.dir)
	if err != nil {
		return fmt.Errorf("opening the folder for PostgreSQL: %w", err)
	}
	h.Root = root
	h.lock, err = root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		h.release()
		return fmt.Errorf("locking the folder for PostgreSQL: %w", err)
	}
	if err := syscall.Flock(int(h.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		h.release()
		return fmt.Errorf("%w: %s\nhint: stop the other one, or choose another folder", ErrInUse, h.dir)
	}
	return nil
}

// release gives up the lock and closes the home.
func (h *home) release() {
	if h.lock != nil {
		_ = h.lock.Close() // nothing was written to it
	}
	if h.Root != nil {
		_ = h.Close() // read only
	}
}

// clear removes what a server keeps, all but the lock.
func (h *home) clear(acc account) error {
	var errs []error
	if dir, ok := h.shortSocketKept(acc); ok {
		errs = append(errs, emptySockets(dir), os.Remove(dir))
	}
	for _, name := range []string{dataName, newDataName, socketName, logName, passwordName, passFileName, portName, shortSockName, ephemeralName} {
		errs = append(errs, h.RemoveAll(name))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing PostgreSQL's data: %w", err)
	}
	return nil
}

// discard removes the data, and the folder where it is ours alone.
func (h *home) discard(acc account) error {
	err := h.clear(acc)
	if h.marker != "" {
		err = errors.Join(err, os.Remove(h.marker))
	}
	if h.temp || h.marker != "" {
		err = errors.Join(err, os.RemoveAll(h.dir))
	} else {
		err = errors.Join(err, h.Remove(lockName))
	}
	return err
}

// password reads the superuser's password, or makes one of 130 random bits.
func (h *home) password() (string, error) {
	text, err := h.ReadFile(passwordName)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading PostgreSQL's password: %w", err)
	}
	password := rand.Text()
	if err := h.WriteFile(passwordName, []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keeping PostgreSQL's password: %w", err)
	}
	return password, nil
}

// lend makes a folder of mode 0700 that belongs to the account.
func (h *home) lend(name string, acc account) error {
	if err := h.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making PostgreSQL's folder %s: %w", name, err)
	}
	if err := h.Chmod(name, 0o700); err != nil {
		return fmt.Errorf("closing PostgreSQL's folder %s: %w", name, err)
	}
	if acc.lent {
		if err := h.Lchown(name, int(acc.uid), int(acc.gid)); err != nil {
			return fmt.Errorf("giving PostgreSQL's folder %s to user %s: %w", name, acc.name, err)
		}
	}
	return nil
}

// socketDir makes the socket's folder and empties it: the lock says that nobody listens there. Where the path would be too long for a
// socket, the folder is a short one in a temporary folder, remembered for the next start.
func (h *home) socketDir(ctx context.Context, acc account, bin programs) (string, error) {
	if err := h.lend(socketName, acc); err != nil {
		return "", err
	}
	dir := h.path(socketName)
	if len(dir)+len("/.s.PGSQL.65535") > maxSocketPath {
		return h.shortSocketDir(ctx, acc, bin)
	}
	return dir, emptySockets(dir)
}

func (h *home) shortSocketDir(ctx context.Context, acc account, bin programs) (string, error) {
	if kept, ok := h.shortSocketKept(acc); ok {
		return kept, emptySockets(kept)
	}
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if len(base) > maxSocketPath/2 {
			continue
		}
		dir, err := os.MkdirTemp(base, shortSockPrefix+"*")
		if err != nil {
			continue
		}
		if acc.lent {
			err = os.Lchown(dir, int(acc.uid), int(acc.gid))
		}
		if err == nil && acc.reaches(ctx, bin, dir) {
			if err := h.WriteFile(shortSockName, []byte(dir), 0o600); err != nil {
				return "", fmt.Errorf("remembering PostgreSQL's socket folder: %w", err)
			}
			return dir, nil
		}
		_ = os.Remove(dir) // made a moment ago and still empty
	}
	return "", fmt.Errorf("placing PostgreSQL's socket: %s is too long for one, and no temporary folder will do\nhint: choose a shorter folder", h.dir)
}

// shortSocketKept returns the remembered socket folder if it is still the account's own, of mode 0700 and not a link: /tmp is open to all,
// and after a restart of the machine a folder of that name may be somebody else's.
func (h *home) shortSocketKept(acc account) (string, bool) {
	text, err := h.ReadFile(shortSockName)
	if err != nil {
		return "", false
	}
	dir := string(text)
	info, err := os.Lstat(dir) //nolint:gosec // G703: it is looked at to see whether it can be trusted
	if err != nil || info.Mode() != fs.ModeDir|0o700 || !strings.HasPrefix(filepath.Base(dir), shortSockPrefix) {
		return "", false
	}
	return dir, ownedBy(info, acc.uid)
}

func ownedBy(info fs.FileInfo, uid uint32) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == uid
}

func emptySockets(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".s.PGSQL.*"))
	if err != nil {
		return fmt.Errorf("looking for old sockets: %w", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing an old socket: %w", err)
		}
	}
	return nil
}
