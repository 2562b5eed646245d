package ratoon

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
)

type contextKey struct{}

// Handler is middleware for net/http and every router on it: it shows each request on the status page, counts the answers by class
// (responses_2xx and so on; errors for those that were cut off), and during the drain says `Connection: close`. Nil is
// http.DefaultServeMux. ListenAndServe and Serve add it by themselves.
func Handler(next http.Handler) http.Handler {
	if next == nil {
		next = http.DefaultServeMux
	}
	if _, already := next.(*handler); already {
		return next
	}
	return &handler{next}
}

type handler struct {
	next http.Handler
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := &answer{ResponseWriter: w}
	if board := page(); board != nil {
		answer.shown = board.request(r.Method, r.URL.RequestURI(), r.ProtoMajor*10+r.ProtoMinor, r.RemoteAddr)
		r = r.WithContext(context.WithValue(r.Context(), contextKey{}, answer.shown))
	}
	whole := false
	// Also when the handler panics.
	defer func() {
		if answer.shown == nil {
			return
		}
		switch {
		case answer.hijacked:
			answer.shown.hijacked()
		case whole && !answer.failed && r.Context().Err() == nil:
			answer.shown.end(answer.status)
		default:
			answer.shown.end(0)
		}
	}()
	h.next.ServeHTTP(answer.asItsServerDoes(), r)
	// An empty answer's head is written by the server.
	answer.begin(http.StatusOK)
	whole = true
}

// Describe shows a JSON object of at most 256 bytes with a request; a larger one is left out.
func Describe(r *http.Request, object any) {
	if shown, ok := r.Context().Value(contextKey{}).(*request); ok {
		shown.describe(object)
	}
}

// answer watches what a handler writes.
type answer struct {
	http.ResponseWriter
	shown    *request
	status   int
	failed   bool
	hijacked bool
}

// asItsServerDoes gives the answer the optional methods that the server's own has: http.Hijacker with HTTP/1, http.Pusher with HTTP/2.
func (a *answer) asItsServerDoes() http.ResponseWriter {
	if _, ok := a.ResponseWriter.(http.Hijacker); ok {
		return hijackable{a}
	}
	if pusher, ok := a.ResponseWriter.(http.Pusher); ok {
		return struct {
			*answer
			http.Pusher
		}{a, pusher}
	}
	return a
}

// begin notes the head of the answer; only the first one counts.
func (a *answer) begin(status int) {
	if a.status != 0 {
		return
	}
	a.status = status
	if Draining() {
		a.Header().Set("Connection", "close")
	}
	if a.shown != nil {
		a.shown.sending()
	}
}

func (a *answer) WriteHeader(status int) {
	// 1xx are followed by the answer itself, but for 101.
	if status >= 200 || status == http.StatusSwitchingProtocols {
		a.begin(status)
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(part []byte) (int, error) {
	a.begin(http.StatusOK)
	written, err := a.ResponseWriter.Write(part)
	a.failed = a.failed || err != nil
	return written, err
}

// ReadFrom keeps the server's sendfile(2).
func (a *answer) ReadFrom(source io.Reader) (int64, error) {
	a.begin(http.StatusOK)
	written, err := io.Copy(a.ResponseWriter, source)
	a.failed = a.failed || err != nil
	return written, err
}

func (a *answer) Flush() {
	a.begin(http.StatusOK)
	if flusher, ok := a.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
}

// Unwrap is for http.ResponseController (Go 1.20).
func (a *answer) Unwrap() http.ResponseWriter {
	return a.ResponseWriter
}

type hijackable struct {
	*answer
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	connection, buffers, err := h.ResponseWriter.(http.Hijacker).Hijack()
	h.hijacked = err == nil
	return connection, buffers, err
}
