package ratoon

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"testing"
	"time"
)

// workers are the programs that this test program is as a worker, by RATOON_TEST_WORKER.
var workers = map[string]func() error{
	"serve": func() error { return ListenAndServe(&http.Server{Handler: routes()}, "") },
	"tls": func() error {
		server := httptest.NewUnstartedServer(nil)
		server.StartTLS()
		certificates := server.TLS.Certificates
		server.Close()
		listeners, err := Listeners()
		if err != nil {
			return err
		}
		configuration := &tls.Config{Certificates: certificates, NextProtos: []string{"h2", "http/1.1"}}
		return Serve(&http.Server{Handler: routes(), TLSConfig: configuration}, tls.NewListener(listeners[0], configuration))
	},
	"words": func() error {
		WhenDraining(func() { fmt.Println("draining") })
		_ = Status("warm\nup")
		_ = Info(map[string]int{"a": 1})
		_ = Leaving()
		Count("ticks", 3)
		_ = Ready()
		select {}
	},
}

func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	mux.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		Describe(r, map[string]string{"user": "ada"})
		time.Sleep(500 * time.Millisecond)
		fmt.Fprint(w, "slow")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "first")
		w.(http.Flusher).Flush()
		time.Sleep(500 * time.Millisecond)
		fmt.Fprint(w, "last")
	})
	mux.HandleFunc("/missing", http.NotFound)
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			fmt.Fprint(connection, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			connection.Close()
		}
	})
	return mux
}

func TestMain(m *testing.M) {
	if run, found := workers[os.Getenv("RATOON_TEST_WORKER")]; found {
		if err := run(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestServeTakesTheHandedSocketAndSaysReady(t *testing.T) {
	w := startWorker(t, "serve", time.Minute)
	w.connect().asks("/", "200 kept hello")
	if pid := w.word(wordPID); pid != uint64(w.command.Process.Pid) {
		t.Fatalf("the page is written by process %d", pid)
	}
}

func TestDrainAnswersAKeptConnectionWithClose(t *testing.T) {
	for _, path := range []string{"/", "/empty", "/missing"} {
		w := startWorker(t, "serve", time.Minute)
		kept := w.connect()
		kept.asks("/", "200 kept hello")
		w.drain()
		kept.asks(path, map[string]string{"/": "200 close hello", "/empty": "200 close ", "/missing": "404 close 404 page not found\n"}[path])
		w.ends()
	}
}

func TestDrainServesAConnectionThatHasAskedNothingYet(t *testing.T) {
	w := startWorker(t, "serve", time.Minute)
	silent := w.connect()
	// It is accepted before a later one.
	w.connect().asks("/", "200 kept hello")
	w.drain()
	silent.asks("/", "200 close hello")
}

func TestDrainServesARequestInWork(t *testing.T) {
	w := startWorker(t, "serve", time.Minute)
	client := w.connect()
	client.send("/slow?full=1")
	until(t, "the request is described", func() bool { return w.shown() == `GET /slow?full=1 {"user":"ada"}` })
	w.terminate()
	if answer := client.receive(); answer != "200 close slow" {
		t.Fatal(answer)
	}
	w.ends()
	if counters := w.counters(); !reflect.DeepEqual(counters, map[string]uint64{"responses_2xx": 1}) {
		t.Fatal(counters)
	}
}

func TestDrainKeepsAConnectionWhoseHeadWasSent(t *testing.T) {
	w := startWorker(t, "serve", time.Minute)
	client := w.connect()
	client.send("/stream")
	until(t, "the head is sent", func() bool { return w.word(512+slotRequest) == sending })
	w.drain()
	if answer := client.receive(); answer != "200 kept firstlast" {
		t.Fatal(answer)
	}
	client.asks("/", "200 close hello")
	w.ends()
}

func TestDrainClosesAnIdleConnectionAfterTheGrace(t *testing.T) {
	w := startWorker(t, "serve", time.Second)
	idle := w.connect()
	idle.asks("/", "200 kept hello")
	w.terminate()
	if rest, err := io.ReadAll(idle.connection); err != nil || len(rest) > 0 {
		t.Fatal(rest, err)
	}
	w.ends()
}

func TestDrainOfHTTP2EndsAfterTheRequestInWork(t *testing.T) {
	w := startWorker(t, "tls", time.Second)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	ask := func(path string) string {
		response, err := (&http.Client{Transport: transport}).Get("https://" + w.address + path)
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return fmt.Sprint(response.Proto, " ", string(body), err)
	}
	if answer := ask("/"); answer != "HTTP/2.0 hello<nil>" {
		t.Fatal(answer)
	}
	slow := make(chan string)
	go func() { slow <- ask("/slow") }()
	until(t, "the request is described", func() bool { return w.shown() == `GET /slow {"user":"ada"}` })
	w.terminate()
	if answer := <-slow; answer != "HTTP/2.0 slow<nil>" {
		t.Fatal(answer)
	}
	w.ends()
}

func TestAnswersAreCountedByClass(t *testing.T) {
	w := startWorker(t, "serve", time.Minute)
	for _, path := range []string{"/", "/missing", "/panic", "/hijack"} {
		client := w.connect()
		client.send(path)
		_, _ = io.ReadAll(io.LimitReader(client.connection, 12))
	}
	expected := map[string]uint64{"responses_2xx": 1, "responses_4xx": 1, "errors": 1}
	until(t, "the answers are counted", func() bool { return reflect.DeepEqual(w.counters(), expected) })
	if requests, notCounted := w.word(wordRequests), w.word(wordNotCounted); requests != 4 || notCounted != 7 {
		t.Fatal(requests, notCounted)
	}
}

func TestMessagesAreSentInOrder(t *testing.T) {
	w := startWorker(t, "words", time.Minute)
	if expected := []string{"STATUS=warm up", `X_RATOON_INFO={"a":1}`, "STOPPING=1", "READY=1"}; !reflect.DeepEqual(w.said, expected) {
		t.Fatal(w.said)
	}
	if counters := w.counters(); counters["ticks"] != 3 {
		t.Fatal(counters)
	}
}

func TestWatchdogIsFed(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "20000")
	w := startWorker(t, "words", time.Minute)
	w.hears("WATCHDOG=1")
	w.said = nil
	w.hears("WATCHDOG=1")
}

func TestServerStatusIsReadFromTheControlSocket(t *testing.T) {
	path := t.TempDir() + "/control"
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"state":%q}`, r.URL.Path) }))
	}()
	var document struct{ State string }
	if err := ServerStatus(context.Background(), &document); err == nil {
		t.Fatal("without a master there is no status")
	}
	t.Setenv("RATOON_CONTROL", path)
	if err := ServerStatus(context.Background(), &document); err != nil || document.State != "/status" {
		t.Fatal(err, document)
	}
}

func TestIdentityIsOfTheEnvironment(t *testing.T) {
	if _, supervised := CurrentIdentity(); supervised {
		t.Fatal("there is no master")
	}
	t.Setenv("RATOON_INSTANCE", "web")
	t.Setenv("RATOON_SLOT", "1")
	if identity, _ := CurrentIdentity(); identity != (Identity{Instance: "web", Slot: 1}) {
		t.Fatal(identity)
	}
}
