package x509

import (
	"container/list"
	"sync"
	"time"
)

const (
	maxAnswers = 4096 // kept
	maxAsking  = 8    // at once: more are told to try later, so that they can't hold the database's connections
)

// answers keeps what was signed about certificates for some seconds, as many as
// it has room for.
type answers struct {
	asking chan struct{}

	mu    sync.Mutex
	kept  map[string]*list.Element
	order *list.List // of *answer, the one asked for last in front
}

type answer struct {
	key string

	mu   sync.Mutex // held while it is made, so that it is made once
	body []byte
	made time.Time
}

func newAnswers() answers {
	return answers{asking: make(chan struct{}, maxAsking), kept: map[string]*list.Element{}, order: list.New()}
}

// enter says whether there is room for one more question; leave gives it back.
func (a *answers) enter() bool {
	select {
	case a.asking <- struct{}{}:
		return true
	default:
		return false
	}
}

func (a *answers) leave() { <-a.asking }

// of gives the place of an answer; one that wasn't asked for longest makes room.
func (a *answers) of(key string) *answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	if element, ok := a.kept[key]; ok {
		a.order.MoveToFront(element)
		one, _ := element.Value.(*answer)
		return one
	}
	one := &answer{key: key}
	a.kept[key] = a.order.PushFront(one)
	if a.order.Len() > maxAnswers {
		a.remove(a.order.Back())
	}
	return one
}

// drop forgets a place that has no answer.
func (a *answers) drop(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if element, ok := a.kept[key]; ok {
		a.remove(element)
	}
}

// forget drops them all: another certificate answers from now on.
func (a *answers) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.kept)
	a.order.Init()
}

func (a *answers) remove(element *list.Element) {
	if one, ok := a.order.Remove(element).(*answer); ok {
		delete(a.kept, one.key)
	}
}
