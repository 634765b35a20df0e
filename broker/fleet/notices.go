package fleet

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

const channelPrefix = "daypass_"

// Channel is the name of a topic in LISTEN and NOTIFY.
func Channel(topic string) string { return channelPrefix + topic }

func topicOf(channel string) (topic string, ours bool) {
	return strings.CutPrefix(channel, channelPrefix)
}

// Subscribe has heard called with the payload of each notice of a topic that
// another broker sent. An empty payload says that some may have been lost, at
// the beginning and whenever the connection was: whoever is told so looks for
// itself. heard must not block. Subscribe is called before Run.
func (f *Fleet) Subscribe(topic string, heard func(payload string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handlers[topic] = append(f.handlers[topic], heard)
}

// Notify tells the other brokers something, a moment later: notices of a topic
// with the same payload are sent as one, four times a second at most. One that is
// sent while the connection is away is sent when it is back. No secret belongs in
// a payload: whoever may connect to the database can listen.
//
// It never waits, and takes no lock of the database: a transaction with a NOTIFY
// in it commits one at a time with all others of the server, so none is ever part
// of what an exchange does.
func (f *Fleet) Notify(topic, payload string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	waiting := f.pending[topic]
	if waiting == nil {
		waiting = map[string]bool{}
		f.pending[topic] = waiting
	}
	switch {
	case waiting[""]: // it says more than any other
		return
	case payload == "" || len(payload) > MaxPayload || len(waiting) == maxNotices && !waiting[payload]:
		clear(waiting)
		waiting[""] = true
	default:
		waiting[payload] = true
	}
	if !f.held {
		f.interrupt()
	}
}

// NotifyIn queues a notice in a transaction of the caller, which tells the others
// when it commits, and this broker too. Such commits wait for each other: it is
// for what people do, now and then.
func NotifyIn(batch *pgx.Batch, topic, payload string) {
	batch.Queue(`SELECT pg_notify($1, $2)`, Channel(topic), payload)
}

// collect takes what is to be sent now. The caller holds mu.
func (f *Fleet) collect() (channels, payloads []string) {
	if f.held {
		return nil, nil
	}
	for topic, waiting := range f.pending {
		for payload := range waiting {
			channels, payloads = append(channels, Channel(topic)), append(payloads, payload)
		}
	}
	clear(f.pending)
	return channels, payloads
}

// hand calls whoever subscribed.
func (f *Fleet) hand(topic, payload string) {
	f.mu.Lock()
	handlers := f.handlers[topic]
	f.mu.Unlock()
	for _, heard := range handlers {
		heard(payload)
	}
}
