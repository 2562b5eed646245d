package ratoon

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

const (
	pageBytes = 256 * 1024
	deadline  = 60 * time.Second
)

// newPage makes a page as the master does: the first ten words of the header.
func newPage(t *testing.T, stopTimeout time.Duration) *os.File {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "page"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	words := []uint64{1, pageBytes, 512, 32, 4096, 640, 400, 0, uint64(stopTimeout)}
	header := append([]byte(pageMagic), asBytes(words)...)
	if err := file.Truncate(pageBytes); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(header, 0); err != nil {
		t.Fatal(err)
	}
	return file
}

func readWord(t *testing.T, page *os.File, index int) uint64 {
	t.Helper()
	var word [8]byte
	if _, err := page.ReadAt(word[:], int64(index*8)); err != nil {
		t.Fatal(err)
	}
	return *(*uint64)(unsafe.Pointer(&word[0]))
}

// until waits for a condition, looking every 10 ms; fails the test after the deadline.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for limit := time.Now().Add(deadline); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not seen within %v: %s", deadline, what)
		}
	}
}

// worker is this test program as a worker, below a stand-in for the master: a listening socket as descriptor 3, a status page as 4.
type worker struct {
	t       *testing.T
	command *exec.Cmd
	page    *os.File
	notify  *net.UnixConn
	address string
	output  bytes.Buffer
	said    []string
}

// startWorker runs workers[name], in a process of its own.
func startWorker(t *testing.T, name string, stopTimeout time.Duration) *worker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	path := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, page: newPage(t, stopTimeout), notify: notify, address: listener.Addr().String()}
	w.command = exec.Command(os.Args[0])
	w.command.Env = append(os.Environ(), "RATOON_TEST_WORKER="+name, "LISTEN_FDS=1", "LISTEN_FDNAMES=web", "RATOON_SCOREBOARD=4",
		"NOTIFY_SOCKET="+path)
	w.command.ExtraFiles = []*os.File{socket, w.page}
	w.command.Stdout, w.command.Stderr = &w.output, &w.output
	if err := w.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		notify.Close()
		if w.command.ProcessState == nil {
			_ = w.command.Process.Kill()
			_ = w.command.Wait()
		}
	})
	w.hears("READY=1")
	return w
}

// hears waits until the worker has said the word.
func (w *worker) hears(word string) {
	w.t.Helper()
	_ = w.notify.SetReadDeadline(time.Now().Add(deadline))
	for buffer := make([]byte, 8192); ; {
		for _, said := range w.said {
			if said == word {
				return
			}
		}
		length, err := w.notify.Read(buffer)
		if err != nil {
			w.t.Fatalf("the worker does not say %s: %v", word, err)
		}
		w.said = append(w.said, strings.Split(string(buffer[:length]), "\n")...)
	}
}

func (w *worker) terminate() {
	w.t.Helper()
	if err := w.command.Process.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
}

// drain begins the drain, and waits until the worker no longer accepts: the others have closed the socket.
func (w *worker) drain() {
	w.t.Helper()
	w.terminate()
	until(w.t, "the worker stops accepting", func() bool {
		connection, err := net.Dial("tcp", w.address)
		if err == nil {
			connection.Close()
		}
		return err != nil
	})
}

// ends waits for the worker's end with status 0.
func (w *worker) ends() {
	w.t.Helper()
	timer := time.AfterFunc(deadline, func() { _ = w.command.Process.Kill() })
	defer timer.Stop()
	if err := w.command.Wait(); err != nil {
		w.t.Fatalf("the worker ended with %v: %s", err, w.output.String())
	}
}

func (w *worker) word(index int) uint64 {
	w.t.Helper()
	return readWord(w.t, w.page, index)
}

// counters are the named counters of the page.
func (w *worker) counters() map[string]uint64 {
	found := make(map[string]uint64)
	for at := 64; at < 64+32*8; at += 8 {
		if w.word(at) != 2 {
			continue
		}
		var name [48]byte
		_, _ = w.page.ReadAt(name[:], int64(at+2)*8)
		found[string(bytes.TrimRight(name[:], "\x00"))] = w.word(at + 1)
	}
	return found
}

// shown are method, URL and info of the first slot, if its request is in work.
func (w *worker) shown() string {
	if w.word(512) != 2 || w.word(513)%2 != 0 {
		return ""
	}
	shape := w.word(512 + 13)
	text := func(word int, length uint64) string {
		bytes := make([]byte, length)
		_, _ = w.page.ReadAt(bytes, int64(512+word)*8)
		return string(bytes)
	}
	return fmt.Sprintf("%s %s %s", text(16, shape&0xff), text(18, shape>>32&0xffff), text(48, shape>>48))
}

// client is one kept connection.
type client struct {
	t          *testing.T
	connection net.Conn
	reader     *bufio.Reader
}

func (w *worker) connect() *client {
	w.t.Helper()
	connection, err := net.Dial("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { connection.Close() })
	_ = connection.SetDeadline(time.Now().Add(deadline))
	return &client{w.t, connection, bufio.NewReader(connection)}
}

func (c *client) send(path string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.connection, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path); err != nil {
		c.t.Fatal(err)
	}
}

// receive gives status, whether the connection is to be closed, and the body.
func (c *client) receive() string {
	c.t.Helper()
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	kept := "kept"
	if response.Close {
		kept = "close"
	}
	return fmt.Sprintf("%d %s %s", response.StatusCode, kept, body)
}

func (c *client) asks(path, expected string) {
	c.t.Helper()
	c.send(path)
	if answer := c.receive(); answer != expected {
		c.t.Fatalf("GET %s: %q instead of %q", path, answer, expected)
	}
}
