package ratoon

import (
	"encoding/json"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Supervised tells whether a master listens: NOTIFY_SOCKET is set.
func Supervised() bool {
	return os.Getenv("NOTIFY_SOCKET") != ""
}

// Notify sends an assignment like "READY=1" to the master, as sd_notify(3) does. Without a master it does nothing.
func Notify(assignment string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// net takes "@" for the abstract namespace, as NOTIFY_SOCKET does.
	connection, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = connection.Write([]byte(assignment))
	return err
}

// Ready says READY=1: this worker serves. It feeds the watchdog from then on, and takes the status page, which shows no requests so far.
func Ready() error {
	page()
	feedWatchdog()
	return Notify("READY=1")
}

// Status says STATUS=, a line that `ratoon status` shows.
func Status(text string) error {
	return Notify("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Leaving says STOPPING=1: this worker leaves by its own will, and a replacement starts at once.
func Leaving() error {
	return Notify("STOPPING=1")
}

// Info shows a JSON object of at most 3 KiB as the worker's info.
func Info(object any) error {
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return Notify("X_RATOON_INFO=" + string(text))
}

var watchdog sync.Once

// feedWatchdog sends WATCHDOG=1 at half of WATCHDOG_USEC, where `worker.watchdog` is set. That shows that the scheduler runs.
func feedWatchdog() {
	microseconds, _ := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if !Supervised() || microseconds <= 0 {
		return
	}
	watchdog.Do(func() {
		go func() {
			for {
				_ = Notify("WATCHDOG=1")
				time.Sleep(time.Duration(microseconds) * time.Microsecond / 2)
			}
		}()
	})
}
