package leases

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// What a tenant holds is counted exactly, under a lock, where fewer than
// exactWithin leases are left to it. Farther away that would cost more with each
// lease that lives, and make all exchanges of a large tenant wait for each other:
// a broker that has counted takes a share of what is left, and counts again when
// that is used or roomLife is over. Shares are so small that eight brokers who
// count at once can't pass the limit together.
const (
	exactWithin = 1000
	roomShare   = 8
	roomLife    = 5 * time.Second
	// fullLife is how long a tenant of more than exactWithin leases is refused
	// without being counted again.
	fullLife  = time.Second
	mostRooms = 8192
)

// rooms is what this broker may reserve for tenants without counting. Forgetting
// one costs a count.
type rooms struct {
	mu   sync.Mutex
	left map[string]room
}

type room struct {
	leases int
	full   bool
	until  time.Time
}

// take uses n leases of a tenant's room; false: count.
func (r *rooms) take(whose string, n int, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	left, known := r.left[whose]
	if !known || left.full || left.leases < n || !now.Before(left.until) {
		return false
	}
	left.leases -= n
	r.left[whose] = left
	return true
}

// holds says whether a tenant was found full just now.
func (r *rooms) holds(whose []byte, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.left[string(whose)]
	return left.full && now.Before(left.until)
}

// learn takes down what was counted.
func (r *rooms) learn(whose string, limit, held int, now time.Time) {
	next := room{leases: (limit - held - exactWithin) / roomShare, until: now.Add(roomLife)}
	if held >= limit && limit > exactWithin {
		next = room{full: true, until: now.Add(fullLife)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if next.leases <= 0 && !next.full {
		delete(r.left, whose)
		return
	}
	if r.left == nil || len(r.left) >= mostRooms {
		r.left = map[string]room{}
	}
	r.left[whose] = next
}

// counting is what one transaction has to count, and what it finds.
type counting struct {
	grants  []string // to lock by name
	locks   []int64
	tenants [][]byte
	limits  []int32
	adds    map[string]int
	held    map[string]int
}

func (s *Store) counting(writes []*write) counting {
	c := counting{adds: map[string]int{}, held: map[string]int{}}
	most := map[string]int{}
	for _, w := range writes {
		r := w.reserve
		ofJob := r.MaxPerJob > 0
		for _, l := range r.Leases {
			if l.MaxActive > 0 {
				c.grants = append(c.grants, s.config.Tenant+"/"+l.Policy+"/"+l.Grant)
			}
			ofJob = ofJob || l.MaxActivePerJob > 0
		}
		if ofJob {
			c.locks = append(c.locks, lockOf("job", r.Whose, r.JobKey))
		}
		if r.Retry != nil {
			c.locks = append(c.locks, lockOf("retry", r.Retry.Key))
		}
		if r.MaxPerTenant > 0 {
			c.adds[string(r.Whose)] += len(r.Leases)
			most[string(r.Whose)] = r.MaxPerTenant
		}
	}
	now := s.config.Now()
	for whose, n := range c.adds {
		if s.rooms.take(whose, n, now) {
			continue
		}
		c.locks = append(c.locks, lockOf("tenant", []byte(whose)))
		c.tenants, c.limits = append(c.tenants, []byte(whose)), append(c.limits, int32(most[whose])) //nolint:gosec // bounded by the configuration
	}
	return c
}

// lockOf is the number by which something is locked: 64 bits of a hash. Two that
// share one wait for each other, and no more.
func lockOf(kind string, of ...[]byte) int64 {
	sum := sha256.Sum256(bytes.Join(append([][]byte{[]byte("daypass " + kind)}, of...), []byte{0}))
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // any number will do
}

func (s *Store) learn(c counting) {
	now := s.config.Now()
	for i, whose := range c.tenants {
		if held, counted := c.held[string(whose)]; counted {
			s.rooms.learn(string(whose), int(c.limits[i]), held+c.adds[string(whose)], now)
		}
	}
}
