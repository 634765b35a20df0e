package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// worker does one operation. n counts the operations of a measurement, over all
// of its workers, from 0.
type worker func(ctx context.Context, n int) error

// driven is what a load did.
type driven struct {
	took    []time.Duration // of each operation, sorted
	elapsed time.Duration
}

// load says how much is done.
type load struct {
	most   int // operations
	during time.Duration
	pace   float64 // operations a second; 0: as many as there can be
}

// drive keeps all workers busy, each with one operation at a time, until the
// time is over or most operations were begun. One that fails ends it: a row with
// failures in it would say nothing.
func drive(ctx context.Context, workers []worker, l load) (driven, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	took := make([][]time.Duration, len(workers))
	var running sync.WaitGroup
	begin := time.Now()
	for i, work := range workers {
		running.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				began := time.Now()
				if p := l.pace; p > 0 {
					// It counts from when it was to be sent, whether or not somebody was
					// free to send it: a server that falls behind is seen to.
					began = begin.Add(time.Duration(float64(n) / p * float64(time.Second)))
					time.Sleep(time.Until(began))
				}
				if n >= l.most || n > 0 && began.Sub(begin) >= l.during { // the first is done, however late
					return
				}
				if err := work(ctx, n); err != nil {
					cancel(err)
					return
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	running.Wait()
	result := driven{took: slices.Concat(took...), elapsed: time.Since(begin)}
	slices.Sort(result.took)
	if err := context.Cause(ctx); err != nil {
		return result, err
	}
	if len(result.took) == 0 {
		return result, errors.New("not one operation was done")
	}
	return result, nil
}

// answerTime is when a server that doesn't answer is given up.
const answerTime = 15 * time.Second

// http makes clients of a server, each with a connection that it keeps. Writing
// requests by hand and skimming the answers leaves the cores to what is
// measured: net/http's client takes as much CPU as a whole broker could.
func (s *stage) http(address, path, body string) func(context.Context, int) ([]worker, func(), error) {
	head := "POST " + path + " HTTP/1.1\r\nHost: " + address + "\r\nContent-Type: application/json\r\nContent-Length: " +
		fmt.Sprint(len(body)) + "\r\nAuthorization: Bearer "
	return func(ctx context.Context, clients int) ([]worker, func(), error) {
		var connections []net.Conn
		closeAll := func() {
			for _, c := range connections {
				_ = c.Close() // it was read to the end
			}
		}
		var workers []worker
		for range clients {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				closeAll()
				return nil, nil, err
			}
			connections = append(connections, conn)
			c := &client{conn: conn, reader: bufio.NewReader(conn), head: head, body: body, tokens: s.tokens}
			workers = append(workers, c.exchange)
		}
		return workers, closeAll, nil
	}
}

type client struct {
	conn       net.Conn
	reader     *bufio.Reader
	head, body string
	tokens     *tokens
	request    []byte
}

// exchange sends the nth job token and reads the whole answer.
func (c *client) exchange(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.request = append(c.request[:0], c.head...)
	c.request = append(c.request, c.tokens.list[n]...)
	c.request = append(c.request, "\r\n\r\n"...)
	c.request = append(c.request, c.body...)
	if err := c.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return fmt.Errorf("sending a request: %w", err)
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return fmt.Errorf("reading an answer: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // it was read to the end
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // the status says enough
		return fmt.Errorf("answered with %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
