package ratoon

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// look is the time between looks at the open connections during the drain.
const look = 50 * time.Millisecond

var drain = struct {
	sync.Mutex
	begun     chan struct{}
	callbacks []func()
}{begun: make(chan struct{})}

// Draining tells whether the drain has begun.
func Draining() bool {
	select {
	case <-drain.begun:
		return true
	default:
		return false
	}
}

// WhenDraining calls the function when the drain begins, at once if it has begun: stop timers and consumers there.
func WhenDraining(callback func()) {
	drain.Lock()
	begun := Draining()
	if !begun {
		drain.callbacks = append(drain.callbacks, callback)
	}
	drain.Unlock()
	if begun {
		callback()
	}
}

// BeginDrain begins the drain, as SIGTERM does under ListenAndServe; a second call does nothing.
func BeginDrain() {
	drain.Lock()
	if Draining() {
		drain.Unlock()
		return
	}
	close(drain.begun)
	callbacks := drain.callbacks
	drain.callbacks = nil
	drain.Unlock()
	for _, callback := range callbacks {
		callback()
	}
}

// drainTimes tells for how long an idle connection is kept during a drain, and after which time the drain ends: 10 s but at most half
// of `worker.stop_timeout`, and five sixths of it (of 30 s where the master does not tell it).
func drainTimes() (grace, most time.Duration) {
	stopTimeout := 30 * time.Second
	if board := page(); board != nil && board.stopTimeout > 0 {
		stopTimeout = board.stopTimeout
	}
	grace, most = 10*time.Second, stopTimeout*5/6
	if stopTimeout/2 < grace {
		grace = stopTimeout / 2
	}
	return grace, most
}

// ListenAndServe serves on the handed sockets, else on address. It says READY=1 when it does, drains without losing a request after
// SIGTERM, and shows the requests. It returns nil at the end of the drain.
//
// The drain: the worker stops accepting, serves what it has accepted, says `Connection: close` (HTTP/2: GOAWAY) with the next answer of each
// connection, and closes an idle connection after a grace without a request. http.Server.Shutdown alone closes idle connections at
// once, under requests that are on their way.
func ListenAndServe(server *http.Server, address string) error {
	handed, err := Listeners()
	if err != nil {
		return err
	}
	var listeners []net.Listener
	for _, listener := range handed {
		listeners = append(listeners, listener.Listener)
	}
	if len(listeners) == 0 {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		listeners = append(listeners, listener)
	}
	return Serve(server, listeners...)
}

// Serve is ListenAndServe on these listeners, which it closes. With TLS: tls.NewListener, and "h2" among the NextProtos of its
// configuration for HTTP/2.
func Serve(server *http.Server, listeners ...net.Listener) error {
	connections := &connections{open: make(map[net.Conn]*connection)}
	connections.track(server)
	server.Handler = Handler(server.Handler)

	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	defer signal.Stop(terminate)
	ended := make(chan error, len(listeners))
	for _, listener := range listeners {
		listener := listener
		go func() { ended <- server.Serve(listener) }()
	}
	if err := Ready(); err != nil {
		return err
	}
	serving := len(listeners)
	select {
	case <-terminate:
		BeginDrain()
	case <-drain.begun:
	case err := <-ended:
		// One that the program has shut down, or that cannot accept: the end of all.
		server.Close()
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	}

	for _, listener := range listeners {
		listener.Close()
	}
	// A connection is known when its listener accepts the next one, or ends.
	for ; serving > 0; serving-- {
		<-ended
	}
	grace, most := drainTimes()
	began := time.Now()
	for connections.left(began, grace) && time.Since(began) < most {
		time.Sleep(look)
	}
	ctx, cancel := context.WithTimeout(context.Background(), most-time.Since(began))
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close()
	}
	return nil
}

// connections are those of a server that are open and not hijacked.
type connections struct {
	mutex sync.Mutex
	open  map[net.Conn]*connection
}

type connection struct {
	idle      bool
	idleSince time.Time
}

// track learns of connections by the server's ConnState, beside a hook of the program's own.
func (c *connections) track(server *http.Server) {
	hook := server.ConnState
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		c.mutex.Lock()
		switch state {
		case http.StateNew, http.StateIdle:
			c.open[conn] = &connection{idle: true, idleSince: time.Now()}
		case http.StateActive:
			c.open[conn] = &connection{}
		case http.StateHijacked, http.StateClosed:
			delete(c.open, conn)
		}
		c.mutex.Unlock()
		if hook != nil {
			hook(conn, state)
		}
	}
}

// left tells whether the drain that began then has to wait for a connection. It closes those of HTTP/1 that were idle for the grace; idle ones of
// HTTP/2 are left to Shutdown, which says GOAWAY, after the grace.
func (c *connections) left(began time.Time, grace time.Duration) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	left := false
	for conn, connection := range c.open {
		since := connection.idleSince
		if since.Before(began) {
			since = began
		}
		if !connection.idle || time.Since(since) < grace {
			left = true
		} else if secure, ok := conn.(*tls.Conn); !ok || secure.ConnectionState().NegotiatedProtocol != "h2" {
			// Closed in another turn: Close calls ConnState.
			conn := conn
			go conn.Close()
		}
	}
	return left
}
